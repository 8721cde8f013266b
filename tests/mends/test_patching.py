"""Modules of others are changed if they are as they were, and else it is said."""

import sys
import warnings
from importlib import import_module, invalidate_caches

import pytest

from anomalib_students import mends
from anomalib_students.mends import apply_mends, patching

PACKAGE = f"{mends.__name__}."
MENDS = [value for value in vars(mends).values() if getattr(value, "__module__", "").startswith(PACKAGE)]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make a package with a module that has a function and a class with a method."""
    monkeypatch.setattr(patching, "version", lambda _: "3.1")
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    folder = tmp_path / "mended"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "module.py").write_text(
        "def twice(value):\n    return 2 * value\n\n\nclass Number:\n    def get(self):\n        return 3\n"
    )
    yield "mended"
    for name in ("mended", "mended.module"):
        sys.modules.pop(name, None)


def add_one(wrapped, _, args, kwargs):
    return wrapped(*args, **kwargs) + 1


@pytest.mark.parametrize("is_imported", [False, True])
def test_functions_are_wrapped_now_or_later(is_imported, package):
    if is_imported:
        import_module(f"{package}.module")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patching.wrap(f"{package}.module", "twice", add_one, "all is as it was")
        patching.wrap(f"{package}.module", "Number.get", add_one, "all is as it was")
        assert (f"{package}.module" in sys.modules) == is_imported
        module = import_module(f"{package}.module")
    assert (module.twice(2), module.Number().get()) == (5, 4)


@pytest.mark.parametrize("name", ["thrice", "Number.set", "Digit.get"])
def test_a_function_that_is_gone_is_warned_of_at_the_import(name, package):
    patching.wrap(f"{package}.module", name, add_one, "all is as it was")
    message = rf"mended 3\.1 has changed mended\.module\.{name}, .*: all is as it was\."
    with pytest.warns(RuntimeWarning, match=message):
        module = import_module(f"{package}.module")
    assert module.twice(2) == 4


def test_a_module_that_is_gone_is_warned_of_at_once(package):
    for module in ("mended.gone", "mended.gone.deeper", "mended.module.deeper"):
        with pytest.warns(RuntimeWarning, match=rf"has changed {module}\.twice"):
            patching.wrap(module, "twice", add_one, "all is as it was")
    assert package not in sys.modules


def test_a_package_that_is_not_installed_is_not_missed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patching.wrap("nothing_of_that_name.module", "twice", add_one, "all is as it was")


@pytest.mark.parametrize("mend", MENDS, ids=lambda mend: mend.__name__)
def test_every_mend_says_what_is_to_be_expected_without_it(mend, monkeypatch):
    monkeypatch.setattr(patching, "_exists", lambda _: False)
    with pytest.warns(RuntimeWarning, match=r"^(anomalib|jsonarg|openvino)\w* [\d.]+ has changed .+: .+\.$"):
        mend()


@pytest.mark.parametrize("mend", MENDS, ids=lambda mend: mend.__name__)
def test_the_installed_packages_have_what_is_mended(mend, monkeypatch):
    monkeypatch.setattr(patching.wrapt, "when_imported", lambda module: lambda apply: apply(import_module(module)))
    # They are wrapped already.
    monkeypatch.setattr(patching.wrapt, "wrap_function_wrapper", lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        mend()


def test_a_second_call_changes_nothing_more():
    apply_mends()
    from anomalib.cli import cli

    main = cli.main
    apply_mends()
    assert cli.main is main

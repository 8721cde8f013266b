"""Files of a job on a disk or in a bucket, and when a job may be resumed."""

import json

import pytest

from anomalib_students.runs.storage import Storage, begin


@pytest.fixture(params=["path", "URI"])
def storage(tmp_path, request):
    """A folder on a disk, and the same as pyarrow sees it, as it does a bucket."""
    if request.param == "URI":
        pytest.importorskip("pyarrow")
    return Storage(str(tmp_path) if request.param == "path" else tmp_path.as_uri())


class TestStorage:
    def test_what_is_written_is_read_and_nothing_else_is_left(self, storage, tmp_path):
        assert storage.read_json("folder/a.json") is None
        storage.write("folder/a.json", b"older, and longer than what replaces it")
        storage.write_json("folder/a.json", {"a": [1, None], "path": tmp_path})
        assert storage.read_json("folder/a.json") == {"a": [1, None], "path": str(tmp_path)}
        assert [file.name for file in (tmp_path / "folder").iterdir()] == ["a.json"]

    def test_files_are_listed_and_read_in_order(self, storage):
        assert storage.names("a.json") == []
        for number, name in enumerate(["x/y/a.json", "b/a.json", "a.json", "x/other.json"]):
            storage.write_json(name, number)
        names = storage.names("a.json")
        assert names == ["a.json", "b/a.json", "x/y/a.json"]
        assert storage.read_json_files([*names, "none.json"]) == [2, 1, 0, None]

    def test_for_pyarrow_both_are_the_same_folder(self, storage, tmp_path):
        pytest.importorskip("pyarrow")
        assert storage.file_system()[1] == str(tmp_path)


class TestBegin:
    def begin(self, storage, resume=False, **settings):
        begin(storage, {"seed": 0, "limit": None, "images": storage.folder / "images", **settings}, resume)

    def test_a_job_that_is_there_already_is_not_begun_again(self, storage):
        self.begin(storage)
        assert storage.read_json("settings.json")["limit"] is None
        with pytest.raises(FileExistsError, match=f"There is a job in {storage.location} already: resume it with"):
            self.begin(storage)

    def test_a_job_is_resumed_with_its_settings_alone(self, storage):
        self.begin(storage, resume=True)
        self.begin(storage, resume=True)
        with pytest.raises(ValueError, match=r"had other settings: seed=0\. Resume it with these"):
            self.begin(storage, resume=True, seed=1)

    @pytest.mark.parametrize("before", [{}, {"format": 1}, {"format": 3}])
    def test_one_of_another_version_is_not_resumed(self, storage, tmp_path, before):
        (tmp_path / "settings.json").write_text(json.dumps({**before, "seed": 0}))
        with pytest.raises(ValueError, match="was begun by another version of anomalib-students"):
            self.begin(storage, resume=True)

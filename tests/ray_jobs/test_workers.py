"""What the worker processes of a cluster know."""

import anomalib.models
import pytest

pytestmark = pytest.mark.slow


def test_a_worker_has_our_models(nodes):
    import ray

    def models_of_worker():
        # By its module, which is pickled with the function, although the plugin has given it a class of its own.
        return anomalib.models.list_models()

    # With another variable in its environment it is a new process, which has imported nothing yet.
    task = ray.remote(models_of_worker).options(runtime_env={"env_vars": {"ANOMALIB_STUDENTS_TEST": "1"}})
    assert "uninformed_students" in ray.get(task.remote())

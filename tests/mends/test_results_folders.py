"""Results of a model before its training."""

from pathlib import Path

from ..reliability.small import small_data, small_engine, small_model


def test_a_test_before_the_first_training_is_not_in_its_way(tmp_path: Path) -> None:
    datamodule = small_data(tmp_path / "data")
    model = small_model(visualizer=True)
    small_engine(tmp_path / "results").test(model, datamodule=datamodule)
    tested = {path.name for path in (tmp_path / "results").rglob("*.png")}
    assert tested
    engine = small_engine(tmp_path / "results")
    engine.fit(model, datamodule=datamodule)
    folder = tmp_path / "results" / "UninformedStudents" / "MVTec" / "dots"
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "v0", "v1"]
    assert {path.name for path in (folder / "v0").rglob("*.png")} == tested
    assert (folder / "latest" / "weights" / "lightning" / "model.ckpt").samefile(engine.best_model_path)

"""Settings: flags over environment over TOML file over defaults; what is misspelt is refused."""

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from edgeops.errors import ConfigError
from edgeops.paths import home
from edgeops.settings import Settings, load


class Sample(Settings):
    model_config = SettingsConfigDict(env_prefix="EDGEOPS_SAMPLE_")
    file_name: ClassVar[str] = "sample.toml"

    timeout_s: float = Field(default=1.0, gt=0)
    port: int = 80


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The TOML file's path, in a home of its own."""
    monkeypatch.setenv("EDGEOPS_HOME", str(tmp_path))
    folder = tmp_path / "config"
    folder.mkdir()
    return folder / "sample.toml"


def test_each_source_goes_over_the_next(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(Sample).port == 80
    config.write_text("port = 81\ntimeout_s = 2")
    assert load(Sample).port == 81
    monkeypatch.setenv("EDGEOPS_SAMPLE_PORT", "82")
    assert load(Sample).port == 82
    assert load(Sample, port=83).port == 83
    assert load(Sample, port=None).port == 82
    assert load(Sample).timeout_s == 2


def test_a_misspelt_key_in_the_file_is_refused(config: Path) -> None:
    config.write_text("prot = 81")
    with pytest.raises(ConfigError) as caught:
        load(Sample)
    assert caught.value.subject == "prot"


def test_a_bad_value_is_refused_and_the_remedy_names_every_way_to_set_it(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEOPS_SAMPLE_TIMEOUT_S", "0")
    with pytest.raises(ConfigError) as caught:
        load(Sample)
    assert caught.value.subject == "timeout_s"
    assert "EDGEOPS_SAMPLE_TIMEOUT_S" in str(caught.value)
    assert str(config) in str(caught.value)


def test_edgeops_home_moves_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPS_HOME", str(tmp_path))
    roots = home()
    assert {roots.config.parent, roots.state.parent, roots.cache.parent} == {tmp_path}


def test_without_it_the_platform_s_folders_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEOPS_HOME", raising=False)
    roots = home()
    assert len({roots.config, roots.state, roots.cache}) == 3
    assert all("edgeops" in path.parts for path in (roots.config, roots.state, roots.cache))

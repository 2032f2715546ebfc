"""Where each package's settings get their values: flags over environment over TOML file over defaults."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from edgeops.errors import ConfigError
from edgeops.paths import home


class Settings(BaseSettings):
    """Base class. A subclass sets `env_prefix` in `model_config` and `file_name`, the TOML file in the
    configuration folder. Unknown keys are refused: a misspelt limit must not be silently ignored."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)
    file_name: ClassVar[str] = ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file: Path = home().config / getattr(settings_cls, "file_name", "")
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=file))


SettingsT = TypeVar("SettingsT", bound=Settings)


def load(kind: type[SettingsT], **flags: Any) -> SettingsT:
    """The settings in force. `flags` that are None count as not given.

    Raises `ConfigError` naming the setting, or the file, that is at fault.
    """
    file = home().config / kind.file_name
    try:
        return kind(**{name: value for name, value in flags.items() if value is not None})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(
            f"The settings file {file} cannot be read ({error}).",
            remedy="Correct it (https://toml.io), or move it away.",
            subject=str(file),
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        prefix = kind.model_config.get("env_prefix", "")
        raise ConfigError(
            f"The setting {name!r} is at fault: {first['msg']}.",
            remedy=f"Set it by its flag, by {prefix}{name.upper()}, or in {file}.",
            subject=name,
        ) from error

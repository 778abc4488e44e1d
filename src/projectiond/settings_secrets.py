"""Secrets from files: what Docker and Kubernetes mount, and systemd's LoadCredential= hands over.

A process's environment can be read by its user and is inherited by whatever it starts; a settings file is shown around.
So each setting of SECRETS has a twin, NAME_file, that names a file with nothing but the value in it. Called by
load_settings, for each source by itself: within one source both would be a guess at what is meant, and are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# Settings whose values are never shown.
SECRETS: Final = ("database_url", "http_token")

# Longer is no secret, but a device or a wrong path.
MOST_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the files came to, by setting."""

    values: dict[str, str]
    origins: dict[str, str]
    faults: list[str]
    """A sentence for each file that gives no value."""


def file_setting(name: str) -> str:
    """Return the name of the setting that names a secret's file."""
    return f"{name}_file"


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one source over another: a secret that is above, in either form, hides both forms below."""
    hidden = {form for name in SECRETS for form in _forms(name) if any(other in above for other in _forms(name))}
    return {**{name: value for name, value in below.items() if name not in hidden}, **above}


def refuse_both(values: Mapping[str, Any], origins: Mapping[str, str], otherwise: str) -> list[str]:
    """Name each secret that one source has in both forms.

    Args:
        values: the settings of one source.
        origins: the variables that they came from, where they came from variables.
        otherwise: the file that they came from, where they did not.
    """
    return [
        f"both {origins.get(name, name)} and {origins.get(file_setting(name), file_setting(name))} are set"
        f"{'' if name in origins else f' in {otherwise}'}: leave one of them out"
        for name in SECRETS
        if all(form in values for form in _forms(name))
    ]


def read_secrets(values: Mapping[str, Any]) -> Secrets:
    """Read the files that are named; the end of line that editors add is no part of a secret."""
    secrets = Secrets({}, {}, [])
    for name in SECRETS:
        path = values.get(file_setting(name))
        if isinstance(path, str) and path and name not in values:
            try:
                secrets.values[name] = _read(Path(path))
                secrets.origins[name] = f"the file {path}"
            except ValueError as error:
                secrets.faults.append(f"{file_setting(name)} names {path}, {error}")
    return secrets


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode()
    except UnicodeDecodeError:
        # Its own words quote the bytes.
        raise ValueError("which is no text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"which cannot be read ({error.strerror}): name one that the daemon's user may read") from None
    if not text.strip():
        raise ValueError("which is empty: write the value into it")
    if len(content) > MOST_BYTES:
        raise ValueError("which is too long for a secret")
    return text.rstrip("\r\n")


def _forms(name: str) -> tuple[str, str]:
    return name, file_setting(name)

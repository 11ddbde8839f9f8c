"""The pepper: 32 random bytes that key the hashes of the secrets. They live outside the database, so that a stolen
copy of it does not even let a thief test a guess.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from gateway.config import StoreSettings
from gateway.errors import ConfigurationError

SIZE_BYTES = 32


class Pepper:
    """Hashes secrets. `id` is stored beside each hash: it tells which pepper made it, without giving it away."""

    __slots__ = ("_secret", "id")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.id = blake2b(key=secret, digest_size=8, person=b"gateway pepper").hexdigest()

    def digest(self, secret: str) -> bytes:
        """A keyed hash suffices for generated secrets of 256 bits; a slow one would only help to stall us."""
        return blake2b(secret.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=32).digest()

    def key_for(self, purpose: str) -> bytes:
        """A key of 32 bytes for something else than secrets: the same for every process that has this pepper."""
        return blake2b(purpose.encode(), key=self._secret, digest_size=32, person=b"gateway key").digest()


def load_pepper(settings: StoreSettings, database: Path, environ: Mapping[str, str], *, needed: bool) -> Pepper:
    """Reads the pepper from where the settings say, by default beside the database.

    A missing file is created, unless the pepper is `needed`: a new one would make every secret wrong.
    """
    if settings.pepper_env:
        text = environ.get(settings.pepper_env)
        if not text:
            raise ConfigurationError(f"store.pepper_env: the environment has no {settings.pepper_env}")
        return _parse(text, f"the environment's {settings.pepper_env}")
    path = Path(settings.pepper_file) if settings.pepper_file else database.with_name(f"{database.name}.pepper")
    try:
        if needed:
            return _read(path)
        try:
            return _create(path)
        except FileExistsError:
            return _read(path)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path}: no such file, and the accounts in {database} cannot be authenticated without this pepper"
            if needed
            else f"{path}: the directory of the pepper does not exist"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path}: the pepper cannot be read: {error.strerror}") from error


def _create(path: Path) -> Pepper:
    secret = os.urandom(SIZE_BYTES)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secret.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())  # accounts that depend on it may be committed right after
    return Pepper(secret)


def _read(path: Path) -> Pepper:
    with path.open(encoding="ascii", errors="replace") as file:
        if os.fstat(file.fileno()).st_mode & stat.S_IRWXO:
            raise ConfigurationError(f"{path}: the pepper is open to every user of this machine: chmod 600 it")
        return _parse(file.read(1024), str(path))


def _parse(text: str, where: str) -> Pepper:
    try:
        secret = bytes.fromhex(text.strip())
    except ValueError:
        secret = b""
    if len(secret) != SIZE_BYTES:
        raise ConfigurationError(f"{where}: a pepper is {SIZE_BYTES * 2} hex digits")
    return Pepper(secret)

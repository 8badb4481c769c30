"""The RSA keys by which a device knows this host: adb's own, so a device that trusts adb here trusts us."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from edgekit.errors import HostStorageError, InputError

_READABLE = "it must be a file that this user may read (mode 600); ANDROID_USER_HOME names another folder for it"


class Signer:
    """One key pair; ``path`` is the private key's file, its public half lies beside it as ``.pub``."""

    def __init__(self, path: Path) -> None:
        """Read the key.

        Raises:
            InputError: the file cannot be read or holds no key of adb's kind.
        """
        from adb_shell.auth.keygen import encode_pubkey, get_user_info
        from adb_shell.auth.sign_pythonrsa import PythonRSASigner

        try:
            private = path.read_text(encoding="utf-8")
            self._signer = PythonRSASigner("", private)
            # Derived rather than read: a public half that is missing or of another key would never be accepted.
            self.public_key: bytes = base64.b64encode(encode_pubkey(str(path))) + get_user_info().encode()
        except OSError as error:
            raise InputError(f"read adb's key {path}: {error.strerror or error}", hint=_READABLE) from error
        except Exception as error:  # whatever the libraries below raise for a file that is no key
            raise InputError(
                f"read adb's key {path}: it is no private RSA key ({error})",
                hint="move it away; adb or edgekit then makes a new one, which devices ask you to allow",
            ) from error

    def sign(self, token: bytes) -> bytes:
        """The signature of a device's token."""
        signature: bytes = self._signer.Sign(token)
        return signature


def key_paths() -> list[Path]:
    """Where adb keeps private keys: its own one first, then those of ``ADB_VENDOR_KEYS``."""
    home = os.environ.get("ANDROID_USER_HOME") or str(Path.home() / ".android")
    paths = [Path(home) / "adbkey"]
    for entry in os.environ.get("ADB_VENDOR_KEYS", "").split(os.pathsep):
        if entry:
            found = Path(entry)
            paths += sorted(found.glob("*.adb_key")) if found.is_dir() else [found]
    return paths


def signers() -> list[Signer]:
    """Every key of this user; one is made where there is none.

    Raises:
        InputError: a key cannot be read.
        HostStorageError: none can be made.
    """
    try:
        paths = [path for path in key_paths() if path.exists()]
    except OSError as error:
        raise InputError(f"look for adb's key {error.filename}: {error.strerror}", hint=_READABLE) from error
    if not paths:
        paths = [_make(key_paths()[0])]
    return [Signer(path) for path in paths]


def _make(path: Path) -> Path:
    from adb_shell.auth.keygen import keygen

    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The library opens the file by name: it must exist, closed to others, before a key is in it.
        part.touch(mode=0o600, exist_ok=False)
        keygen(str(part))
        part.with_name(f"{part.name}.pub").replace(path.with_name(f"{path.name}.pub"))
        part.replace(path)
    except OSError as error:
        raise HostStorageError(f"make adb's key {path}: {error.strerror or error}") from error
    return path

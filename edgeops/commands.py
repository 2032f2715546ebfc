"""Commands that every role has: `edgeops keys`, `verify`, `inspect`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

_BUNDLE = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON line.")


@click.group(epilog="Example: edgeops keys new builder --out keys")
def keys() -> None:
    """Make the keys that bundles are signed and verified with."""


@keys.command(name="new", epilog="Example: edgeops keys new builder --out keys")
@click.argument("name")
@click.option(
    "--out", "folder", required=True, metavar="DIR", type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the two files; made if it is missing.",
)  # fmt: skip
@click.option(
    "--encrypt", is_flag=True,
    help="Protect the private key by a passphrase: EDGEOPS_KEY_PASSPHRASE if set, else asked for.",
)  # fmt: skip
@_json_option
def new(name: str, folder: Path, encrypt: bool, as_json: bool) -> None:
    """Make a key pair: DIR/NAME.key (private, mode 0600) and DIR/NAME.pub.

    Keep the .key file on the builder's machine, off the network. Give the .pub file to the hub and to every
    device. Existing files are never overwritten.
    """
    from edgeops.signing.keys import PASSPHRASE_VARIABLE, key_id, load_public_key, new_key

    passphrase = None
    if encrypt:
        passphrase = os.environ.get(PASSPHRASE_VARIABLE) or click.prompt(
            "Passphrase", hide_input=True, confirmation_prompt=True, err=True
        )
    private, public = new_key(name, folder, passphrase=passphrase.encode() if passphrase else None)
    identity = key_id(load_public_key(public))
    if as_json:
        click.echo(json.dumps({"private": str(private), "public": str(public), "key_id": identity}))
        return
    click.echo(f"Private key  {private}  (keep it secret)")
    click.echo(f"Public key   {public}")
    click.echo(f"Key id       {identity}")


@click.command(epilog="Example: edgeops verify out/digits-1.0.0 --key keys/builder.pub")
@click.argument("bundle", type=_BUNDLE)
@click.option(
    "--key", "key_files", required=True, multiple=True, metavar="FILE.pub", type=_FILE,
    help="Public key of a builder you trust. May be given several times: one of them must have signed.",
)  # fmt: skip
@click.option(
    "--variant", metavar="ID",
    help="Check what a device holds for this variant, instead of the whole bundle.",
)  # fmt: skip
@_json_option
def verify(bundle: Path, key_files: tuple[Path, ...], variant: str | None, as_json: bool) -> None:
    """Check every byte of BUNDLE against its builder's signature.

    Exit status 0: the bundle is whole, unchanged, and signed by one of the keys. 3: it is not, and the
    offending file is named. The reference tool agrees:
    model_signing verify key BUNDLE --signature BUNDLE/model.sig --public_key FILE.pub
    """
    from edgeops.bundle import verify_bundle
    from edgeops.signing.keys import keyring, load_public_key

    ring = keyring(load_public_key(path) for path in key_files)
    verified = verify_bundle(bundle, ring, variant=variant)
    if as_json:
        outcome = {
            "path": str(bundle),
            "name": verified.manifest.fields.name,
            "version": verified.manifest.fields.version,
            "digest": verified.digest,
            "key_id": verified.key_id,
            "variant": variant,
        }
        click.echo(json.dumps(outcome))
        return
    click.secho("Verified: ", fg="green", nl=False)
    click.echo(f"{verified.manifest.label} is whole, unchanged and signed.")
    click.echo(f"Digest   {verified.digest}")
    click.echo(f"Key id   {verified.key_id}")


@click.command(epilog="Example: edgeops inspect out/digits-1.0.0 --key keys/builder.pub")
@click.argument("bundle", type=_BUNDLE)
@click.option(
    "--key", "key_files", multiple=True, metavar="FILE.pub", type=_FILE,
    help="Verify the bundle by this public key first. Without it, nothing is verified.",
)  # fmt: skip
@_json_option
def inspect(bundle: Path, key_files: tuple[Path, ...], as_json: bool) -> None:
    """Show what is in BUNDLE: variants, quality, sizes, gates, interface, policies."""
    from edgeops.inspection import describe, render
    from edgeops.signing.keys import keyring, load_public_key

    description = describe(bundle, keyring(load_public_key(path) for path in key_files))
    if as_json:
        click.echo(json.dumps(description))
        return
    render(description)

"""Commands that every role has: `edgeops keys`, `verify`, `inspect`."""

from __future__ import annotations

import json
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
@click.option(
    "--passphrase-fd", type=click.IntRange(min=0), metavar="N",
    help="Protect the private key by the passphrase in the first line of file descriptor N.",
)  # fmt: skip
@_json_option
def new(name: str, folder: Path, encrypt: bool, passphrase_fd: int | None, as_json: bool) -> None:
    """Make a key pair: DIR/NAME.key (private, mode 0600) and DIR/NAME.pub.

    Keep the .key file on the builder's machine, off the network. Give the .pub file to the hub and to every
    device. Existing files are never overwritten.
    """
    from edgeops.signing.keys import key_id, load_public_key, new_key
    from edgeops.signing.passphrases import PASSPHRASE_VARIABLE, find_secret

    def ask(what: str) -> str:
        answer: str = click.prompt(what, hide_input=True, confirmation_prompt=True, err=True)
        return answer

    passphrase = None
    if encrypt or passphrase_fd is not None:
        passphrase = find_secret(PASSPHRASE_VARIABLE, fd=passphrase_fd, prompt=ask, what="Passphrase")
    private, public = new_key(name, folder, passphrase=passphrase)
    identity = key_id(load_public_key(public))
    if as_json:
        click.echo(json.dumps({"private": str(private), "public": str(public), "key_id": identity}))
        return
    click.echo(f"Private key  {private}  (keep it secret)")
    click.echo(f"Public key   {public}")
    click.echo(f"Key id       {identity}")


@keys.command(
    name="public",
    epilog="Example: edgeops keys public 'pkcs11:token=desk;object=k1?module-name=softhsm2' > builder.pub",
)
@click.argument("key")
@click.option(
    "--passphrase-fd", type=click.IntRange(min=0), metavar="N",
    help="Read the passphrase or PIN from the first line of file descriptor N.",
)  # fmt: skip
def public(key: str, passphrase_fd: int | None) -> None:
    """Print the public key (PEM) of KEY: a private key's file, or a pkcs11: URI of a key in a token.

    A passphrase comes from EDGEOPS_KEY_PASSPHRASE, a PIN from EDGEOPS_KEY_PIN, or either from a file
    descriptor or a prompt; never from the command line.
    """
    from edgeops.signing.keys import public_pem
    from edgeops.signing.passphrases import terminal_prompt
    from edgeops.signing.signers import open_signer

    signer = open_signer(key, secret_fd=passphrase_fd, prompt=terminal_prompt())
    click.echo(public_pem(signer.public_key).decode(), nl=False)


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

"""Where a bundle comes from, as SLSA provenance v1 (https://slsa.dev/spec/v1.1/provenance): what is needed to
make each variant again.

Code stands there by the digest of each source file that took part. That is narrower than a revision of a
repository: a commit that touches none of them changes nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgeops import __version__
from toolchain.recipe import Recipe

BUILD_TYPE = "urn:edgeops:build:v1"
BUILDER = "urn:edgeops:toolchain"

Records = Mapping[str, Mapping[str, Any]]


def slsa_statement(
    recipe: Recipe,
    files: Mapping[str, str],
    report: Mapping[str, Any],
    prompts: Mapping[str, str],
    records: Records,
    created: str,
) -> dict[str, Any]:
    """An in-toto Statement v1 about the variants' `files` (path to SHA-256). The bundle's signature covers
    it. `prompts` are the prompt files by path, `records` tell how each step's output was made."""
    data = report["data"]
    dependencies: list[dict[str, Any]] = [
        {"name": "data", "digest": {"sha256": data["sha256"]}, "annotations": {"source": data["source"]}},
        *({"name": f"prompt:{path}", "digest": {"sha256": sha}} for path, sha in sorted(prompts.items())),
        *(
            {"name": f"code:{name}", "digest": {"sha256": sha}}
            for name, sha in merged(records, "code").items()
        ),
        *({"name": f"tool:{name}", "uri": purl(name, at)} for name, at in merged(records, "tools").items()),
    ]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": path, "digest": {"sha256": sha}} for path, sha in sorted(files.items())],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"recipe": msgspec.to_builtins(recipe)},
                "internalParameters": {
                    "quantization": report["quantization"],
                    "steps": {
                        name: {"config": record["config"], "inputs": record["inputs"]}
                        for name, record in sorted(records.items())
                    },
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"edgeops": __version__}},
                "metadata": {"finishedOn": created},
            },
        },
    }


def merged(records: Records, field: str) -> dict[str, str]:
    """The field `code` or `tools` of all steps together, by name."""
    together: dict[str, str] = {}
    for record in records.values():
        together |= record[field]
    return dict(sorted(together.items()))


def purl(name: str, version: str) -> str:
    """A package URL (https://github.com/package-url/purl-spec): `+` must be escaped, and PyPI's names are
    lower case with dashes."""
    if name == "python":
        return f"pkg:generic/python@{version}"
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"

"""`wherry kustomize`: print what a kustomization makes."""

import click

from cli.framework import verb
from cli.printers import yaml_text


@verb()
@click.argument("folder", default=".")
@click.option("-o", "--output", default="", help="A file to write to.")
@click.option(
    "--load-restrictor", type=click.Choice(["LoadRestrictionsRootOnly", "LoadRestrictionsNone"]),
    default="LoadRestrictionsRootOnly", help="Whether files outside a kustomization's folder may be read.",
)  # fmt: skip
def kustomize(folder: str, output: str, load_restrictor: str) -> None:
    """Print what a kustomization makes."""
    from cli.kustomization import build

    text = "---\n".join(yaml_text(obj) for obj in build(folder, restricted=load_restrictor != "LoadRestrictionsNone"))
    if output:
        with open(output, "w") as file:
            file.write(text)
    else:
        click.echo(text, nl=False)

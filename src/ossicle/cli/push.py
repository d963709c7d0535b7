"""`ossicle push DIR name/birds`: an adapter to the Hugging Face hub."""

from typing import Annotated

import typer

from ossicle import terminal
from ossicle.share import hub, zoo


def push(
    adapter: Annotated[str, typer.Argument(metavar="DIR", help="Adapter folder.")],
    repo: Annotated[str, typer.Argument(help="Repository on the hub, such as name/birds.")],
    private: Annotated[bool, typer.Option(help="Make a private repository.")] = False,
) -> None:
    """Upload an adapter to the Hugging Face hub."""
    address = hub.push(zoo.find(adapter), repo, private=private)
    terminal.say(f"uploaded: {address}")

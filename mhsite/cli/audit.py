"""``mh audit …``"""

import typer

app = typer.Typer(help="Who did what: see it, prove it, take it away.", no_args_is_help=True)

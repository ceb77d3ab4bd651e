"""`ediffi env`: what a bug report should begin with."""

from ediffi.cli import run


def env() -> None:
    """Say what is installed and what it runs on: versions, extras, plug-ins, processor, devices.

    For bug reports: nothing in it is a path, a host's name or a secret.
    """
    from ediffi.cli import environment

    print(environment.block(environment.software() | environment.machine()), flush=True)  # before torch may crash
    print(environment.block(environment.devices()))


def main(argv: list[str]) -> int:
    """Run `ediffi env`."""
    return run(env, argv)

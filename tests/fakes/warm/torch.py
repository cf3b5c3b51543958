"""As much of torch as the warm launcher asks for."""

initialised = False
threads = 0


class cuda:  # noqa: N801
    @staticmethod
    def is_initialized() -> bool:
        return initialised


def set_num_threads(number: int) -> None:
    global threads  # noqa: PLW0603
    threads = number

from router.breaker import OPEN_SECONDS, OPEN_SECONDS_MAX, Breaker

TARGET = ("vllm", "start-1")


def test_a_target_that_fails_now_and_then_is_asked_on() -> None:
    breaker = Breaker(3)
    for now in range(10):
        breaker.failed(TARGET, now)
        breaker.failed(TARGET, now)
        breaker.worked(TARGET)
        assert breaker.open_for(TARGET, now) == 0


def test_after_failures_in_a_row_it_rests_and_others_do_not() -> None:
    breaker = Breaker(3)
    for _ in range(3):
        assert breaker.open_for(TARGET, 0) == 0
        breaker.failed(TARGET, 0)
    assert breaker.open_for(TARGET, 1) == OPEN_SECONDS - 1
    assert breaker.open_for(("vllm", "start-2"), 1) == 0


def test_after_its_rest_one_request_tries_and_the_others_wait_for_it() -> None:
    breaker = Breaker(1)
    breaker.failed(TARGET, 0)
    assert breaker.open_for(TARGET, OPEN_SECONDS) == 0
    assert breaker.open_for(TARGET, OPEN_SECONDS) > 0
    breaker.worked(TARGET)
    assert breaker.open_for(TARGET, OPEN_SECONDS) == 0
    assert breaker.open_for(TARGET, OPEN_SECONDS) == 0


def test_each_failed_try_doubles_the_rest_up_to_a_limit() -> None:
    breaker = Breaker(5)
    now = 0.0
    for _ in range(5):
        breaker.failed(TARGET, now)
    rests = []
    for _ in range(8):
        rests.append(breaker.open_for(TARGET, now))
        now += rests[-1]
        assert breaker.open_for(TARGET, now) == 0
        breaker.failed(TARGET, now)
    assert rests[:3] == [OPEN_SECONDS, OPEN_SECONDS * 2, OPEN_SECONDS * 4]
    assert rests[-1] == OPEN_SECONDS_MAX


def test_one_that_tries_and_is_never_heard_of_again_does_not_keep_it_closed() -> None:
    breaker = Breaker(1)
    breaker.failed(TARGET, 0)
    assert breaker.open_for(TARGET, OPEN_SECONDS) == 0
    assert breaker.open_for(TARGET, OPEN_SECONDS * 2) == 0


def test_a_target_that_asks_for_a_rest_gets_it_at_once() -> None:
    breaker = Breaker(5)
    breaker.failed(TARGET, 0, rest=30)
    assert breaker.open_for(TARGET, 1) == 29

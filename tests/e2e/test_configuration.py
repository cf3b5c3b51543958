"""The options of a backend, changed by clicking: planned, compared, applied to what runs, and put back.

The engines are fakes in real processes; each writes down what it was started with.
"""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, Response, expect

from tests.backends.faults.whole_site import PASSWORD, WholeSite, until
from tests.e2e import browsing
from tests.e2e.browsing import HOME, Watched, person
from tests.e2e.fake_site import fake_site
from tests.e2e.site import artifacts

pytestmark = [pytest.mark.browser, pytest.mark.process]

FORM = f"{HOME}?backend=vllm#configuration"
SHARE, LENGTH = "GPU memory share", "Longest conversation"
SECOND, OTHER_PASSWORD = "olga", "pw-of-somebody-else-1"


@pytest.fixture(scope="module")
def site() -> Iterator[WholeSite]:
    with fake_site() as running:
        running.add_person(SECOND, "owner", OTHER_PASSWORD)
        yield running


@pytest.fixture
def owner(browser: Browser, site: WholeSite) -> Iterator[Watched]:
    """The form of vLLM, which runs with its defaults."""
    site.configure("vllm", gpuMemoryUtilization=0.9, maxModelLen=None, servedModelName=None)
    done = site.ask("restart" if runs(site) else "switch", "vllm", wait=60)
    assert done["state"] == "succeeded", done
    with person(browser, site.url, "owner", PASSWORD) as watched:
        watched.page.goto(FORM)
        expect(watched.page.locator("#mh-header[data-live=on]")).to_be_visible()
        yield watched
        watched.check(site.url)


def runs(site: WholeSite) -> bool:
    return bool(site.status()["available"]["vllm"]["running"])


def started_with(site: WholeSite) -> tuple[int, str]:
    """Return the process that serves, and the share of memory that it was started with."""
    (engine,) = site.seen("vllm").engines
    line = engine.cmdline()
    (given,) = [each for each in line if each.startswith("--gpu-memory-utilization")]
    return engine.pid, given.partition("=")[2] or line[line.index(given) + 1]


def await_done(site: WholeSite) -> None:
    until(lambda: site.status()["operation"] is None, 60, "the end of the operation")


def open_group(page: Page, label: str) -> Locator:
    """Return an option's field, with the group it is in unfolded."""
    field = page.get_by_label(label, exact=True).locator("visible=true")
    group = page.locator("details.mh-group").filter(has=page.get_by_text(label, exact=True)).first
    if group.get_attribute("open") is None:
        group.locator("summary").first.click()
    return field.last


def is_plan_of(answer: Response, share: float) -> bool:
    asked = answer.request.post_data_json if "/vllm/plan" in answer.url else None
    return bool(asked) and asked["options"] == {"gpuMemoryUtilization": share}


def saved_share(site: WholeSite) -> object:
    answer = site.client.get("/api/llm-backend/vllm/config").raise_for_status().json()
    return answer["options"]["gpuMemoryUtilization"]


def test_the_share_of_memory_is_changed_planned_compared_and_applied(
    owner: Watched, site: WholeSite
) -> None:
    page = owner.page
    pid, before = started_with(site)
    assert float(before) == 0.9
    bar = page.locator("[data-bar]")
    expect(bar).to_contain_text("No unsaved changes.")
    because = page.locator("[data-plan-because]")
    expect(because).not_to_be_empty()

    # What cannot be is said at the field, and nothing can be sent.
    field = open_group(page, SHARE)
    field.fill("1.7")
    error = page.locator("[data-option=gpuMemoryUtilization] [data-error]")
    expect(error).not_to_be_empty()
    field.fill("0.55")
    expect(error).to_be_empty()
    expect(bar).to_contain_text("1 unsaved change")
    with page.expect_response(lambda answer: is_plan_of(answer, 0.5)) as planned:
        field.fill("0.5")
    assert planned.value.status == 200
    expect(page.locator("[data-plan]")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("[data-plan-verdict]")).to_be_visible()

    page.get_by_role("button", name="Apply & Restart", exact=True).first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(SHARE)
    expect(dialog).to_contain_text("0.9")
    expect(dialog).to_contain_text("0.5")
    assert browsing.findings(page) == []
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert saved_share(site) == 0.9, "a dialog that was left changes nothing"
    page.get_by_role("button", name="Apply & Restart", exact=True).first.click()
    page.screenshot(path=artifacts() / "configuration-diff-light-1280.png")
    dialog.get_by_role("button", name="Apply & Restart").click()
    expect(dialog).to_be_hidden()
    expect(bar).to_contain_text("No unsaved changes.")
    card = page.locator("section[data-backend=vllm] [data-word]")
    expect(page.locator("[data-revision-number]").first).to_contain_text("0.5", timeout=30_000)
    await_done(site)
    expect(card).to_have_text("Ready", timeout=60_000)
    after, share = started_with(site)
    assert (after != pid, float(share), saved_share(site)) == (True, 0.5, 0.5)

    # And back, by the history.
    page.locator("[data-revision-number]").nth(1).get_by_role("button").click()
    expect(dialog).to_contain_text("Go back to revision")
    dialog.get_by_role("checkbox").check()
    dialog.get_by_role("button", name="Restore").click()
    expect(dialog).to_be_hidden()
    expect(field).to_have_value("0.9")
    await_done(site)
    expect(card).to_have_text("Ready", timeout=60_000)
    assert float(started_with(site)[1]) == 0.9


def test_what_is_saved_and_not_applied_is_said_until_it_is(owner: Watched, site: WholeSite) -> None:
    page = owner.page
    pid, _ = started_with(site)
    open_group(page, SHARE).fill("0.6")
    page.get_by_role("button", name="Save", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("It keeps running with what it was started with.")
    dialog.get_by_role("button", name="Save").click()
    pending = page.locator("[data-pending]")
    expect(pending).to_contain_text("Saved, and not yet what runs")
    assert (started_with(site), saved_share(site)) == ((pid, "0.9"), 0.6)
    pending.get_by_role("button").click()
    expect(pending).to_have_count(0, timeout=60_000)
    await_done(site)
    assert float(started_with(site)[1]) == 0.6


def test_two_owners_who_change_the_same_options_hear_of_each_other(
    browser: Browser, owner: Watched, site: WholeSite
) -> None:
    with person(browser, site.url, SECOND, OTHER_PASSWORD) as second:
        theirs = second.page
        theirs.goto(FORM)
        expect(theirs.locator("#mh-header[data-live=on]")).to_be_visible()
        open_group(theirs, LENGTH).fill("1024")

        mine = owner.page
        open_group(mine, SHARE).fill("0.7")
        mine.get_by_role("button", name="Save", exact=True).click()
        mine.get_by_role("dialog").get_by_role("button", name="Save").click()
        expect(mine.locator("[data-bar]")).to_contain_text("No unsaved changes.")

        notice = theirs.locator("[data-moved]")
        expect(notice).to_contain_text("owner changed the options of vLLM while you did")
        expect(notice).to_contain_text("0.7")
        assert browsing.findings(theirs) == []
        notice.get_by_role("button", name="Keep mine on top").click()
        expect(notice).to_be_hidden()
        expect(
            theirs.locator("[data-option=gpuMemoryUtilization] input[type=number]")
        ).to_have_value("0.7")
        expect(theirs.locator("[data-option=maxModelLen] [data-input]")).to_have_value("1024")
        theirs.get_by_role("button", name="Save", exact=True).click()
        theirs.get_by_role("dialog").get_by_role("button", name="Save").click()
        expect(theirs.locator("[data-bar]")).to_contain_text("No unsaved changes.")
        # Who changed nothing of their own is shown theirs.
        expect(mine.locator("[data-option=maxModelLen] [data-input]")).to_have_value("1024")
        second.check(site.url)
    options = site.client.get("/api/llm-backend/vllm/config").json()["options"]
    assert (options["gpuMemoryUtilization"], options["maxModelLen"]) == (0.7, 1024)

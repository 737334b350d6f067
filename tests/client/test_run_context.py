import json
import subprocess
from pathlib import Path

import pytest

from pipeline.client.run_context import RunContext, ask_git, detect

NO_GIT = lambda: ("", "")  # noqa: E731  # a stand-in for a function

SYSTEMS = {
    "github": (
        {
            "GITHUB_ACTIONS": "true",
            "GITHUB_RUN_ID": "7",
            "GITHUB_RUN_ATTEMPT": "3",
            "GITHUB_JOB": "unit",
            "GITHUB_SHA": "c1",
            "GITHUB_REF_NAME": "main",
        },
        RunContext("github-7-3", "unit", "c1", "main", "github"),
    ),
    "gitlab": (
        {
            "GITLAB_CI": "true",
            "CI_PIPELINE_ID": "9",
            "CI_JOB_NAME": "test 1/2",
            "CI_COMMIT_SHA": "c2",
            "CI_COMMIT_BRANCH": "main",
            "CI_PIPELINE_URL": "https://g.test/p/9",
        },
        RunContext("gitlab-9", "test_1/2", "c2", "main", "gitlab", "https://g.test/p/9"),
    ),
    "jenkins": (
        {
            "JENKINS_URL": "http://j",
            "JOB_NAME": "shop/main",
            "BUILD_NUMBER": "12",
            "GIT_COMMIT": "c3",
            "GIT_BRANCH": "origin/main",
        },
        RunContext("jenkins-shop/main-12", "", "c3", "main", "jenkins"),
    ),
    "circleci": (
        {
            "CIRCLECI": "true",
            "CIRCLE_WORKFLOW_ID": "w-1",
            "CIRCLE_JOB": "e2e",
            "CIRCLE_NODE_INDEX": "1",
            "CIRCLE_SHA1": "c4",
            "CIRCLE_BRANCH": "b",
        },
        RunContext("circleci-w-1", "e2e/1", "c4", "b", "circleci"),
    ),
    "azure": (
        {
            "TF_BUILD": "True",
            "BUILD_BUILDID": "5",
            "SYSTEM_STAGEATTEMPT": "2",
            "SYSTEM_JOBDISPLAYNAME": "Run tests",
            "BUILD_SOURCEVERSION": "c5",
            "BUILD_SOURCEBRANCH": "refs/heads/feature/x",
        },
        RunContext("azure-5-2", "Run_tests", "c5", "feature/x", "azure"),
    ),
    "buildkite": (
        {
            "BUILDKITE": "true",
            "BUILDKITE_BUILD_ID": "u-1",
            "BUILDKITE_LABEL": "rspec",
            "BUILDKITE_COMMIT": "c6",
            "BUILDKITE_BRANCH": "main",
            "BUILDKITE_PULL_REQUEST": "false",
        },
        RunContext("buildkite-u-1", "rspec", "c6", "main", "buildkite"),
    ),
}


@pytest.mark.parametrize(("environ", "expected"), SYSTEMS.values(), ids=SYSTEMS)
def test_each_ci_system_is_known(environ: dict[str, str], expected: RunContext) -> None:
    """Run (with the number of a re-run where there is one), job, commit, branch, link; git is not asked."""
    assert detect(environ, git=lambda: pytest.fail("git was asked")) == expected


def test_ours_win_and_shards_agree() -> None:
    """PIPELINE_ variables override; two sessions of one run differ in their job alone."""
    environ, _ = SYSTEMS["github"]
    ours = {"PIPELINE_RUN_ID": "mine", "PIPELINE_BRANCH": "side", "PIPELINE_JOB": ""}
    found = detect({**environ, **ours}, git=NO_GIT)
    assert (found.run_id, found.branch, found.job, found.commit) == ("mine", "side", "unit", "c1")
    one, two = found.with_nonce("a"), found.with_nonce("b")
    assert (one.run_id, one.job, two.job) == ("mine", "unit#a", "unit#b")
    assert detect({}, git=NO_GIT).with_nonce("x").fields() == {"run_id": "local-x", "job": "x"}


def test_a_pull_request_has_the_commit_that_people_know() -> None:
    """Not GitHub's merge commit; number and base branch come along; an unreadable event costs nothing."""
    environ, _ = SYSTEMS["github"]
    request = {
        "GITHUB_REF": "refs/pull/12/merge",
        "GITHUB_HEAD_REF": "feature",
        "GITHUB_BASE_REF": "main",
        "GITHUB_EVENT_PATH": "event.json",
    }
    event = '{"pull_request": {"head": {"sha": "head1"}}}'
    found = detect(environ | request, read_file=lambda path: event, git=NO_GIT)
    assert (found.commit, found.branch, found.base_branch, found.pull_request) == ("head1", "feature", "main", "12")
    assert detect(environ | request, read_file=lambda path: "[]", git=NO_GIT).commit == "c1"


def test_a_request_that_runs_at_its_base_has_its_own_commit_too() -> None:
    """``pull_request_target`` runs with the base's ref and commit; the event's file knows head and number."""
    environ, _ = SYSTEMS["github"]
    target = {"GITHUB_REF": "refs/heads/main", "GITHUB_HEAD_REF": "feature", "GITHUB_EVENT_PATH": "event.json"}
    event = '{"pull_request": {"number": 7, "head": {"sha": "head1"}}}'
    found = detect(environ | target, read_file=lambda path: event, git=NO_GIT)
    assert (found.commit, found.branch, found.pull_request) == ("head1", "feature", "7")
    pushed = detect(environ | target | {"GITHUB_HEAD_REF": ""}, read_file=lambda path: event, git=NO_GIT)
    assert (pushed.commit, pushed.pull_request) == ("c1", "")


FORK = {"head": {"sha": "h", "repo": {"full_name": "eve/shop"}}, "base": {"repo": {"full_name": "acme/shop"}}}
OTHER_RUN = {"head_sha": "h", "head_branch": "main", "pull_requests": [{"number": 7}]}
OWN_REPOSITORY = {"repository": {"full_name": "acme/shop"}, "head_repository": {"full_name": "acme/shop"}}
FORKED = OWN_REPOSITORY | {"head_repository": {"full_name": "eve/shop"}}
REQUEST = {"GITHUB_REF": "refs/pull/7/merge", "GITHUB_HEAD_REF": "main"}
REVIEW = {"GITHUB_EVENT_NAME": "pull_request_review", "GITHUB_REF": "refs/pull/7/merge", "GITHUB_REF_NAME": "7/merge"}


@pytest.mark.parametrize(
    ("environ", "event", "expected"),
    [
        (REQUEST, {"pull_request": FORK}, ("h", "eve:main", "7")),
        (REQUEST, {"pull_request": FORK | {"base": FORK["head"]}}, ("h", "main", "7")),
        (REVIEW, {"pull_request": FORK | {"head": FORK["head"] | {"ref": "side"}}}, ("h", "eve:side", "7")),
        (REQUEST, {"pull_request": FORK | {"head": {"sha": "h", "repo": None}}}, ("h", "main", "7")),
        ({"GITHUB_EVENT_NAME": "workflow_run"}, {"workflow_run": OTHER_RUN | OWN_REPOSITORY}, ("h", "main", "7")),
        ({"GITHUB_EVENT_NAME": "workflow_run"}, {"workflow_run": OTHER_RUN | FORKED}, ("h", "eve:main", "7")),
        ({"GITHUB_EVENT_NAME": "workflow_run"}, {"workflow_run": {}}, ("c1", "trunk", "")),
    ],
)
def test_a_fork_s_main_is_not_main(
    environ: dict[str, str], event: dict[str, object], expected: tuple[str, str, str]
) -> None:
    """Else its requests would move the baselines; reports of forks are often pushed by a workflow that follows."""
    github = SYSTEMS["github"][0] | {"GITHUB_REF_NAME": "trunk", "GITHUB_EVENT_PATH": "event.json"}
    found = detect(github | environ, read_file=lambda path: json.dumps(event), git=NO_GIT)
    assert (found.commit, found.branch, found.pull_request) == expected


def test_other_systems_name_forks_too() -> None:
    """GitLab by the project, Jenkins by the fork; Azure says only that it is one."""
    azure = SYSTEMS["azure"][0] | {"SYSTEM_PULLREQUEST_SOURCEBRANCH": "refs/heads/main"}
    forked = {said: detect(azure | {"SYSTEM_PULLREQUEST_ISFORK": said}).branch for said in ("True", "False", "")}
    assert forked == {"True": "fork:main", "False": "main", "": "main"}
    projects = {"CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": "eve/shop", "CI_MERGE_REQUEST_PROJECT_PATH": "acme/shop"}
    gitlab = SYSTEMS["gitlab"][0] | {"CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "main"}
    assert detect(gitlab | projects).branch == "eve:main"
    assert detect(gitlab | projects | {"CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": "acme/shop"}).branch == "main"
    jenkins = SYSTEMS["jenkins"][0] | {"CHANGE_BRANCH": "main", "CHANGE_ID": "7"}
    assert (detect(jenkins).branch, detect(jenkins | {"CHANGE_FORK": "eve"}).branch) == ("main", "eve:main")


def test_a_jenkins_without_an_address_is_known_too() -> None:
    """Else each of its builds' sessions were a run of its own."""
    environ, expected = SYSTEMS["jenkins"]
    bare = {name: text for name, text in environ.items() if name not in ("JENKINS_URL", "BUILD_URL")}
    found = detect(bare | {"JENKINS_SERVER_COOKIE": "durable-1"}, git=NO_GIT)
    assert (found.run_id, found.ci, found.run_link) == (expected.run_id, "jenkins", "")


def test_a_merge_queue_s_branch_tells_request_and_base() -> None:
    """``gh-readonly-queue/main/pr-7-abc``."""
    queue = {"GITHUB_REF": "refs/heads/gh-readonly-queue/release/2/pr-7-abc12"}
    found = detect(SYSTEMS["github"][0] | queue, git=NO_GIT)
    assert (found.commit, found.base_branch, found.pull_request) == ("c1", "release/2", "7")


TEAMCITY = {
    "TEAMCITY_VERSION": "2026.1",
    "TEAMCITY_PROJECT_NAME": "Shop",
    "TEAMCITY_BUILDCONF_NAME": "UI",
    "BUILD_NUMBER": "4",
    "BUILD_VCS_NUMBER": "c7",
}


def test_builds_of_two_configurations_are_two_runs(tmp_path: Path) -> None:
    """TeamCity counts in each configuration; two projects of one name are told apart by the configuration's id."""
    other = TEAMCITY | {"TEAMCITY_BUILDCONF_NAME": "API"}
    assert [detect(environ).run_id for environ in (TEAMCITY, other)] == ["teamcity-Shop-UI-4", "teamcity-Shop-API-4"]
    properties = tmp_path / "build.properties"
    properties.write_text("#x\nteamcity.version=1\nteamcity.buildType.id=Shop_Ui\n")
    assert detect(TEAMCITY | {"TEAMCITY_BUILD_PROPERTIES_FILE": str(properties)}).run_id == "teamcity-Shop_Ui-4"


@pytest.mark.parametrize(
    ("told", "branch"),
    [
        ("fix/ünï-#12", "fix/ünï-#12"),
        ("a#1 (b)", "a#1 (b)"),
        ("a\x07\udce9b", "a_b"),
        ("refs/remotes/origin/main", "main"),
        ("origin/x", "x"),
        ("refs/heads/zz", "zz"),
    ],
)
def test_a_branch_keeps_its_name(told: str, branch: str) -> None:
    """Without what git puts before it; also where the client's own variable says it."""
    environ, _ = SYSTEMS["gitlab"]
    assert detect(environ | {"CI_COMMIT_BRANCH": told}).branch == branch
    assert detect(environ | {"PIPELINE_BRANCH": told}).branch == branch


def test_a_link_stays_a_link() -> None:
    """Azure's has a query."""
    environ, _ = SYSTEMS["azure"]
    project = {"SYSTEM_COLLECTIONURI": "https://dev.azure.com/o/", "SYSTEM_TEAMPROJECT": "p"}
    assert detect(environ | project).run_link == "https://dev.azure.com/o/p/_build/results?buildId=5"


def test_a_commit_that_is_no_commit_is_asked_of_git() -> None:
    """Buildkite says HEAD of a build that was started by hand; Jenkins says none in a scripted pipeline."""
    environ, _ = SYSTEMS["buildkite"]
    asked = detect(environ | {"BUILDKITE_COMMIT": "HEAD"}, git=lambda: ("g1", "elsewhere"))
    assert (asked.commit, asked.branch) == ("g1", "main")
    jenkins = {"JENKINS_URL": "http://j", "JOB_NAME": "p", "BUILD_NUMBER": "9", "BRANCH_NAME": "feat/x"}
    asked = detect(jenkins, git=lambda: ("g1", "elsewhere"))
    assert (asked.commit, asked.branch) == ("g1", "feat/x")


def test_git_is_asked_where_nothing_else_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit and branch of a real checkout; nothing outside of one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert ask_git() == ("", "")
    who = ["-c", "user.name=t", "-c", "user.email=t@t.test"]
    subprocess.run(["git", "init", "-q", "-b", "trunk"], check=True)
    subprocess.run(["git", *who, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    found = detect({})
    assert (found.branch, len(found.commit), found.run_id) == ("trunk", 40, "")
    subprocess.run(["git", "tag", "trunk"], check=True)
    assert detect({}).branch == "trunk"
    subprocess.run(["git", "checkout", "-q", "--detach"], check=True)
    assert detect({}).branch == ""

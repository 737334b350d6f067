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

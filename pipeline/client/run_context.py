"""Which run a metric belongs to: run, job, commit and branch, from the environment of a CI system or from git.

All shards of a run agree on ``run_id``; a re-run is a new run, so its number is part of it where the system counts
re-runs for the whole run. ``job`` is one test session inside a run: the CI job and a nonce, since the legs of a
matrix, and two sessions of one job, look alike from the inside.

The client's own variables (``PIPELINE_RUN_ID``, ``PIPELINE_JOB``, ``PIPELINE_COMMIT``, ``PIPELINE_BRANCH``) win over
what is detected. The names map to OpenTelemetry's as ``OPENTELEMETRY`` says. Standard library only.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

OPENTELEMETRY = {
    "run_id": "cicd.pipeline.run.id",
    "job": "cicd.pipeline.task.name",
    "commit": "vcs.ref.head.revision",
    "branch": "vcs.ref.head.name",
    "base_branch": "vcs.ref.base.name",
    "pull_request": "vcs.change.id",
    "run_link": "cicd.pipeline.run.url.full",
    "test_id": "test.case.name",
    "test_suite": "test.suite.name",
    "status": "test.case.result.status",
    "error_type": "error.type",
    "environment": "deployment.environment.name",
    "browser": "browser.brands",
}
"""Our field to OpenTelemetry's attribute."""

_GIT_TIMEOUT_S = 5
_LONGEST = 256
_NOT_IN_AN_ID = re.compile(r"[^\w.:/@+-]+")
_NOT_IN_A_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_REMOTE = re.compile(r"^(?:refs/heads/|refs/tags/|refs/remotes/|remotes/|origin/)+")

Reader = Callable[[str], str]
Git = Callable[[], tuple[str, str]]


@dataclass(frozen=True)
class RunContext:
    """What is known of the run; empty where nothing is."""

    run_id: str = ""
    job: str = ""
    commit: str = ""
    branch: str = ""
    ci: str = ""
    """The CI system; empty on a developer's machine."""
    run_link: str = ""
    base_branch: str = ""
    pull_request: str = ""
    leg: str = ""
    """What tells legs of a matrix apart that have the same job; of no interest by itself."""

    def fields(self) -> dict[str, str]:
        """Fields of each metric of the run."""
        named = {"run_id": self.run_id, "job": self.job, "commit": self.commit, "branch": self.branch}
        return {name: text for name, text in named.items() if text}

    def tags(self) -> dict[str, str]:
        """Tags of each metric of the run."""
        named = {
            "ci": self.ci,
            "run_link": self.run_link,
            "base_branch": self.base_branch,
            "pull_request": self.pull_request,
        }
        return {name: text for name, text in named.items() if text}

    def with_nonce(self, nonce: str) -> RunContext:
        """The context of one session: its job told apart by ``nonce``, a run of its own where none is known."""
        run_id = self.run_id or f"local-{nonce}"
        return replace(self, run_id=run_id, job=f"{self.job}#{nonce}" if self.job else nonce)


@dataclass(frozen=True)
class _System:
    """How one CI system names things: templates over its variables; a template with an unset variable gives nothing."""

    name: str
    marker: str
    run_id: tuple[str, ...]
    job: tuple[str, ...] = ()
    commit: tuple[str, ...] = ()
    branch: tuple[str, ...] = ()
    base_branch: tuple[str, ...] = ()
    pull_request: tuple[str, ...] = ()
    link: tuple[str, ...] = ()
    fork: tuple[str, str] = ("", "")
    """The repository that a request comes from, and this one: where they differ, it is part of the branch's name."""
    leg: tuple[str, ...] = ()


_JENKINS = _System(
    *("jenkins", "JENKINS_URL"),
    run_id=("jenkins-{JOB_NAME}-{BUILD_NUMBER}", "{BUILD_TAG}"),
    job=("{STAGE_NAME}",),
    commit=("{GIT_COMMIT}",),
    branch=("{CHANGE_BRANCH}", "{BRANCH_NAME}", "{GIT_LOCAL_BRANCH}", "{GIT_BRANCH}"),
    base_branch=("{CHANGE_TARGET}",),
    pull_request=("{CHANGE_ID}",),
    link=("{BUILD_URL}",),
    fork=("{CHANGE_FORK}", ""),
    leg=("{NODE_NAME}:{WORKSPACE}", "{WORKSPACE}"),
)
"""Its URL is known where its administrator set it; the cookie always is."""

SYSTEMS = (
    _System(
        *("github", "GITHUB_ACTIONS"),
        run_id=("github-{GITHUB_RUN_ID}-{GITHUB_RUN_ATTEMPT}", "github-{GITHUB_RUN_ID}-1"),
        job=("{GITHUB_JOB}",),
        commit=("{GITHUB_SHA}",),
        branch=("{GITHUB_HEAD_REF}", "{GITHUB_REF_NAME}"),
        base_branch=("{GITHUB_BASE_REF}",),
        link=("{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}",),
        leg=("{RUNNER_TRACKING_ID}", "{RUNNER_NAME}"),
    ),
    _System(
        *("gitlab", "GITLAB_CI"),
        run_id=("gitlab-{CI_PIPELINE_ID}",),
        job=("{CI_JOB_NAME}",),
        commit=("{CI_MERGE_REQUEST_SOURCE_BRANCH_SHA}", "{CI_COMMIT_SHA}"),
        branch=("{CI_MERGE_REQUEST_SOURCE_BRANCH_NAME}", "{CI_COMMIT_BRANCH}", "{CI_COMMIT_REF_NAME}"),
        base_branch=("{CI_MERGE_REQUEST_TARGET_BRANCH_NAME}",),
        pull_request=("{CI_MERGE_REQUEST_IID}",),
        link=("{CI_PIPELINE_URL}",),
        fork=("{CI_MERGE_REQUEST_SOURCE_PROJECT_PATH}", "{CI_MERGE_REQUEST_PROJECT_PATH}"),
    ),
    _System(
        *("circleci", "CIRCLECI"),
        run_id=("circleci-{CIRCLE_WORKFLOW_ID}", "circleci-{CIRCLE_BUILD_NUM}"),
        job=("{CIRCLE_JOB}/{CIRCLE_NODE_INDEX}", "{CIRCLE_JOB}"),
        commit=("{CIRCLE_SHA1}",),
        branch=("{CIRCLE_BRANCH}", "{CIRCLE_TAG}"),
        pull_request=("{CIRCLE_PR_NUMBER}",),
        link=("{CIRCLE_BUILD_URL}",),
    ),
    _System(
        *("azure", "TF_BUILD"),
        run_id=("azure-{BUILD_BUILDID}-{SYSTEM_STAGEATTEMPT}", "azure-{BUILD_BUILDID}-1"),
        job=("{SYSTEM_JOBDISPLAYNAME}", "{SYSTEM_JOBNAME}", "{AGENT_JOBNAME}"),
        commit=("{SYSTEM_PULLREQUEST_SOURCECOMMITID}", "{BUILD_SOURCEVERSION}"),
        branch=("{SYSTEM_PULLREQUEST_SOURCEBRANCH}", "{BUILD_SOURCEBRANCH}", "{BUILD_SOURCEBRANCHNAME}"),
        base_branch=("{SYSTEM_PULLREQUEST_TARGETBRANCHNAME}", "{SYSTEM_PULLREQUEST_TARGETBRANCH}"),
        pull_request=("{SYSTEM_PULLREQUEST_PULLREQUESTNUMBER}", "{SYSTEM_PULLREQUEST_PULLREQUESTID}"),
        link=("{SYSTEM_COLLECTIONURI}{SYSTEM_TEAMPROJECT}/_build/results?buildId={BUILD_BUILDID}",),
        fork=("fork/{SYSTEM_PULLREQUEST_ISFORK}", ""),  # it does not say whose
        leg=("{SYSTEM_JOBPOSITIONINPHASE}",),
    ),
    _System(
        *("buildkite", "BUILDKITE"),
        run_id=("buildkite-{BUILDKITE_BUILD_ID}",),
        job=("{BUILDKITE_LABEL}/{BUILDKITE_PARALLEL_JOB}", "{BUILDKITE_LABEL}", "{BUILDKITE_STEP_KEY}"),
        commit=("{BUILDKITE_COMMIT}",),
        branch=("{BUILDKITE_BRANCH}",),
        base_branch=("{BUILDKITE_PULL_REQUEST_BASE_BRANCH}",),
        pull_request=("{BUILDKITE_PULL_REQUEST}",),
        link=("{BUILDKITE_BUILD_URL}",),
    ),
    _JENKINS,
    replace(_JENKINS, marker="JENKINS_SERVER_COOKIE"),
    _System(
        *("bitbucket", "BITBUCKET_BUILD_NUMBER"),
        run_id=("bitbucket-{BITBUCKET_PIPELINE_UUID}", "bitbucket-{BITBUCKET_BUILD_NUMBER}"),
        job=("{BITBUCKET_STEP_UUID}",),
        commit=("{BITBUCKET_COMMIT}",),
        branch=("{BITBUCKET_BRANCH}", "{BITBUCKET_TAG}"),
        base_branch=("{BITBUCKET_PR_DESTINATION_BRANCH}",),
        pull_request=("{BITBUCKET_PR_ID}",),
    ),
    _System(
        *("travis", "TRAVIS"),
        run_id=("travis-{TRAVIS_BUILD_ID}",),
        job=("{TRAVIS_JOB_NAME}", "{TRAVIS_JOB_NUMBER}"),
        commit=("{TRAVIS_PULL_REQUEST_SHA}", "{TRAVIS_COMMIT}"),
        branch=("{TRAVIS_PULL_REQUEST_BRANCH}", "{TRAVIS_BRANCH}"),
        link=("{TRAVIS_BUILD_WEB_URL}",),
        fork=("{TRAVIS_PULL_REQUEST_SLUG}", "{TRAVIS_REPO_SLUG}"),
    ),
    _System(
        *("teamcity", "TEAMCITY_VERSION"),
        # The numbers count in each build configuration; its id, where the build's properties can be read, is better.
        run_id=(
            "teamcity-{TEAMCITY_PROJECT_NAME}-{TEAMCITY_BUILDCONF_NAME}-{BUILD_NUMBER}",
            "teamcity-{TEAMCITY_PROJECT_NAME}-{BUILD_NUMBER}",
        ),
        job=("{TEAMCITY_BUILDCONF_NAME}",),
        commit=("{BUILD_VCS_NUMBER}",),
    ),
)
"""Reporters of other languages use the same table."""


def detect(environ: Mapping[str, str], *, read_file: Reader | None = None, git: Git | None = None) -> RunContext:
    """What the environment says of the run; git is asked for commit and branch that it does not say.

    ``read_file`` and ``git`` are how files and git are asked; tests pass their own.
    """
    system = next((system for system in SYSTEMS if environ.get(system.marker, "").lower() not in ("", "false")), None)
    found = _of_system(system, environ, read_file or _read_file) if system else RunContext()
    own = {
        field: text
        for field, cleaned in (("run_id", _clean), ("job", _clean), ("commit", _clean), ("branch", _branch))
        if (text := cleaned(environ.get(f"PIPELINE_{field.upper()}", "")))
    }
    found = replace(found, **own)
    if found.commit and (found.branch or system):
        return found
    commit, branch = (git or ask_git)()
    return replace(found, commit=found.commit or _clean(commit), branch=found.branch or _branch(branch))


def session(environ: Mapping[str, str] | None = None) -> RunContext:
    """The context of a new session of this process; its job is told apart from others unless a person named it."""
    environ = os.environ if environ is None else environ
    run = detect(environ)
    return run if run.run_id and environ.get("PIPELINE_JOB") else run.with_nonce(secrets.token_hex(4))


def _of_system(system: _System, environ: Mapping[str, str], read_file: Reader) -> RunContext:
    def first(templates: tuple[str, ...]) -> str:
        return next((text for template in templates if (text := _filled(template, environ))), "")

    commit = _clean(first(system.commit))
    origin, target = (_filled(template, environ) for template in system.fork)
    found = RunContext(
        run_id=_clean(first(system.run_id)),
        job=_clean(first(system.job)),
        commit="" if commit == "HEAD" else commit,  # a build of Buildkite that was started by hand
        branch=_of_fork(_branch(first(system.branch)), origin, target),
        ci=system.name,
        run_link=_text(first(system.link)),
        base_branch=_branch(first(system.base_branch)),
        pull_request=_text(first(system.pull_request)),
        leg=first(system.leg),
    )
    of_file = _OF_FILES.get(system.name)
    return of_file(found, environ, read_file) if of_file else found


def _of_github_event(found: RunContext, environ: Mapping[str, str], read_file: Reader) -> RunContext:
    """A pull request's GITHUB_SHA is a temporary merge commit, or its base; the event's file names the commit.

    A workflow that was started by the end of another one, as to push reports of forks with a secret, has commit and
    branch of the repository's default; those of the other one are meant.
    """
    ref = environ.get("GITHUB_REF", "")
    queued = re.fullmatch(r"refs/heads/gh-readonly-queue/(.+)/pr-(\d+)-\w+", ref)
    if queued:
        return replace(found, base_branch=_branch(queued[1]), pull_request=queued[2])
    number = re.fullmatch(r"refs/pull/(\d+)/\w+", ref)
    if number:
        found = replace(found, pull_request=number[1])
    is_of_another = environ.get("GITHUB_EVENT_NAME") == "workflow_run"
    if not (number or is_of_another or environ.get("GITHUB_HEAD_REF", "").strip()):
        return found
    try:
        event = json.loads(read_file(environ["GITHUB_EVENT_PATH"]))
        return _of_workflow_run(found, event["workflow_run"]) if is_of_another else _of_request(found, event)
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return found


def _of_request(found: RunContext, event: Any) -> RunContext:
    request = event["pull_request"]
    head, base = request["head"], request.get("base")
    # Of a review GitHub names no branch, but what the request would become.
    branch = _branch(str(head.get("ref", ""))) or found.branch
    return replace(
        found,
        commit=_clean(str(head["sha"])),
        branch=_of_fork(branch, _repository(head, "repo"), _repository(base, "repo")),
        pull_request=found.pull_request or _text(str(request.get("number", ""))),
    )


def _of_workflow_run(found: RunContext, other: Any) -> RunContext:
    branch = _branch(str(other["head_branch"]))
    requests = other.get("pull_requests") or [{}]
    return replace(
        found,
        commit=_clean(str(other["head_sha"])),
        branch=_of_fork(branch, _repository(other, "head_repository"), _repository(other, "repository")),
        pull_request=_text(str(requests[0].get("number", ""))),
    )


def _repository(of: Any, name: str) -> str:
    repository = of.get(name) if isinstance(of, dict) else None
    return str(repository.get("full_name", "")) if isinstance(repository, dict) else ""


def _of_fork(branch: str, origin: str, target: str) -> str:
    """A fork's ``main`` is another branch: its branches carry its owner, as GitHub shows them."""
    return f"{_text(origin.partition('/')[0])}:{branch}" if origin and branch and origin != target else branch


def _of_teamcity_properties(found: RunContext, environ: Mapping[str, str], read_file: Reader) -> RunContext:
    """Two projects may have the same name; the id of a build configuration is one of its kind."""
    try:
        properties = read_file(environ["TEAMCITY_BUILD_PROPERTIES_FILE"])
    except (OSError, KeyError, ValueError):
        return found
    configuration = re.search(r"^teamcity\.buildType\.id=(\w+)", properties, re.MULTILINE | re.ASCII)
    run_id = configuration and _filled(f"teamcity-{configuration[1]}-{{BUILD_NUMBER}}", environ)
    return replace(found, run_id=_clean(run_id)) if run_id else found


_OF_FILES = {"github": _of_github_event, "teamcity": _of_teamcity_properties}
"""What a system says in files, by its name."""


def _filled(template: str, environ: Mapping[str, str]) -> str:
    names = re.findall(r"\{(\w+)\}", template)
    values = {name: environ.get(name, "").strip() for name in names}
    # Travis and Buildkite write "false" where there is no pull request, Azure "False" where there is no fork.
    if any(value.lower() in ("", "false") for value in values.values()):
        return ""
    return template.format_map(values)


def _branch(name: str) -> str:
    """``main`` of ``refs/heads/main`` and ``origin/main``, otherwise as it is; a detached HEAD is no branch."""
    name = _REMOTE.sub("", _text(name))
    return "" if name == "HEAD" else name


def _text(text: str) -> str:
    return _NOT_IN_A_TEXT.sub("_", text.strip())[:_LONGEST]


def _clean(text: str) -> str:
    """As an identifier, which people type and which stands in addresses."""
    return _NOT_IN_AN_ID.sub("_", text.strip())[:_LONGEST]


def _read_file(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


def ask_git() -> tuple[str, str]:
    """Commit and branch of the checkout in the current directory; empty where there is none."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD", "--symbolic-full-name", "HEAD"],  # a tag may have the branch's name
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "", ""
    commit, _, branch = asked.stdout.strip().partition("\n")
    return commit, branch

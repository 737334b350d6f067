"""Packages of other people beside our own environment: each set in a directory of its own, for one child process.

``pip install --no-deps --target`` keeps our environment as it is (a plugin for pytest would otherwise run in our own
suite), costs a second and comes from the installer's cache. Not to be had: at a desk the test is skipped, in CI it
fails.
"""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from conftest import missing

_CACHE = (
    Path(tempfile.gettempdir())
    / f"pipeline-side-packages-{os.getuid()}-{sys.version_info.major}.{sys.version_info.minor}"
)


@functools.cache
def side_packages(*requirements: str, with_what_they_need: bool = False) -> Path:
    """A directory for PYTHONPATH with exactly these packages, or also with what they depend on."""
    name = "+".join(requirement.replace("/", "_") for requirement in requirements) + "+" * with_what_they_need
    target = _CACHE / name
    if not target.is_dir():
        _CACHE.mkdir(exist_ok=True, mode=0o700)
        fresh = Path(tempfile.mkdtemp(dir=_CACHE))
        installer = ["uv", "pip"] if shutil.which("uv") else [sys.executable, "-m", "pip"]
        python = ["--python", sys.executable] if installer[0] == "uv" else []
        alone = [] if with_what_they_need else ["--no-deps"]
        command = [*installer, "install", "--quiet", *alone, *python, "--target", str(fresh), *requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            missing(f"{name} cannot be installed: {done.stderr[-300:]}")
        try:
            fresh.rename(target)
        except OSError:
            shutil.rmtree(fresh)  # another process was faster
    return target


@functools.cache
def side_npm_packages(*packages: str) -> Path:
    """A directory whose ``node_modules`` has these packages of npm, without running their install scripts."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        missing("node and npm are not installed")
    target = _CACHE / ("npm-" + "+".join(package.replace("/", "_") for package in packages))
    if not target.is_dir():
        _CACHE.mkdir(exist_ok=True, mode=0o700)
        fresh = Path(tempfile.mkdtemp(dir=_CACHE))
        quiet = ["--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=5", "--ignore-scripts"]
        command = ["npm", "install", *quiet, "--prefix", str(fresh), *packages]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            missing(f"{', '.join(packages)} cannot be installed: {done.stderr[-300:]}")
        try:
            fresh.rename(target)
        except OSError:
            shutil.rmtree(fresh)
    return target


@functools.cache
def npm_package_alone(package: str) -> Path:
    """The files of one package of npm, without what it depends on."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        missing("node and npm are not installed")
    target = _CACHE / f"npm-alone-{package.replace('/', '_')}"
    if not target.is_dir():
        _CACHE.mkdir(exist_ok=True, mode=0o700)
        fresh = Path(tempfile.mkdtemp(dir=_CACHE))
        done = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=fresh, capture_output=True, text=True, check=False
        )
        if done.returncode:
            missing(f"{package} cannot be fetched: {done.stderr[-300:]}")
        shutil.unpack_archive(fresh / done.stdout.split()[-1], fresh)
        try:
            fresh.rename(target)
        except OSError:
            shutil.rmtree(fresh)
    return target / "package"

"""How the embedded engine is opened: its configuration, and the rights of its two roles.

The engine inside a process has users, roles and grants, but only if its first handle names a
configuration file; a file named later, or one that does not exist, is ignored without an error. So
every handle of the product is opened with ``connection_string`` or ``options``, and each says with
``take_role`` who it is, which asks the engine whether that was understood.

Roles: ``owner`` may do everything; ``analyst`` reads the tables of one database. The role does not
hold back functions that read files, ``INTO OUTFILE``, ``SYSTEM``, ``KILL`` or ``SET ROLE``, and not
the engine's own tables (each was tried): for those there is ``query_guard``.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from pipeline.base.errors import EngineRights
from pipeline.base.sql_text import identifier, literal

OWNER = "owner"
ANALYST = "analyst"

_CONFIG = """<clickhouse>
    <!-- Written by the pipeline each time it takes the engine; changes are lost. -->
    <user_directories><users_xml><path>{path}</path></users_xml></user_directories>

    <roles>
        <owner><grants><query>GRANT ALL ON *.* WITH GRANT OPTION</query></grants></owner>
        <analyst><grants>{grants}</grants></analyst>
    </roles>
    <users>
        <default>
            <password/>
            <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants><query>GRANT owner</query><query>GRANT analyst</query></grants>
        </default>
    </users>
    <profiles><default/></profiles>
    <quotas><default/></quotas>

    <!-- Beyond this many outdated parts the engine starts threads to remove them, up to 128, which stay. -->
    <merge_tree><concurrent_part_removal_threshold>100000</concurrent_part_removal_threshold></merge_tree>
</clickhouse>
"""


def write(path: Path, databases: Iterable[str]) -> None:
    """Write the configuration of the engine at ``path``, in which analysts read ``databases``."""
    file = config_file(path)
    # The engine lets every user read its system tables; to work in one of these databases takes a grant.
    grants = "".join(f"<query>GRANT SHOW DATABASES ON {name}.*</query>" for name in ("system", "information_schema"))
    grants += "".join(f"<query>GRANT SELECT, SHOW ON {escape(identifier(name))}.*</query>" for name in databases)
    scratch = file.with_name(f"{file.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(_CONFIG.format(path=escape(str(file)), grants=grants))
    scratch.replace(file)


def config_file(path: Path) -> Path:
    """The configuration file of the engine at ``path``; beside its lock."""
    path = path.resolve()
    return path.with_name(path.name + ".xml")


def options(path: Path) -> dict[str, str]:
    """What clickhouse-connect passes on to the engine (``chdb_options``)."""
    return {"config-file": str(config_file(path))}


def connection_string(path: Path) -> str:
    """What chdb opens."""
    return f"{path}?{urlencode(options(path))}"


def take_role(execute: Callable[[str], object], ask: Callable[[str], str], home: str = "") -> None:
    """Make a fresh handle an analyst's, who reads the database ``home``, or without one make sure it is an owner's.

    ``execute`` and ``ask`` send a statement to the handle, the latter for an answer. Raises ``EngineRights`` unless the
    engine says that it is so: then this process opened the engine without the configuration above, or for another
    database.
    """
    roles = _roles(ask)
    if OWNER not in roles:
        raise EngineRights(
            f"this process opened the embedded ClickHouse without the pipeline's configuration (roles: {roles})"
        )
    if not home:
        return
    granted = f"SELECT count() > 0 FROM system.grants WHERE role_name = '{ANALYST}' AND database = {literal(home)}"
    if ask(granted).strip() != "1":
        raise EngineRights(
            f"this process opened the embedded ClickHouse for another database, so analysts cannot read {home}; "
            "restart it with this clickhouse.database"
        )
    execute(f"SET ROLE {ANALYST}")
    roles = _roles(ask)
    if roles != [ANALYST]:
        raise EngineRights(
            f"the embedded ClickHouse does not hold analysts back (roles of the handle: {roles}), so none is served"
        )


def _roles(ask: Callable[[str], str]) -> list[str]:
    return sorted(ask("SELECT arrayJoin(currentRoles())").split())

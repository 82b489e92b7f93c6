"""The alerting part of a worker alone: the windows come from the test."""

import asyncio
import os
import sys
from typing import Any

import uvloop
from faust.worker import Worker

from deploy.addresses import writer_address
from deploy.alerting import add_alerting
from sinks import clickhouse
from streams import logs
from streams.app import add_health_pages, create_app
from streams.detection import Relations
from streams.settings import Settings


def main() -> None:
    settings = Settings.load()
    logs.configure(settings.log_level)
    uvloop.install()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    app = create_app(settings)

    async def crash(error: BaseException) -> None:
        print(f"crashed: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)

    alerting = add_alerting(
        app,
        settings,
        clickhouse.connect(writer_address(settings)),
        crash,
        Relations(lambda model: model.partition("/")[0]),
    )
    add_health_pages(app, lambda: ["rebalancing"] if app.rebalancing else alerting.faults())

    @app.on_partitions_revoked.connect  # type: ignore[untyped-decorator]
    async def end_loops(*_: Any, **__: Any) -> None:
        await alerting.loops.stop()
        await alerting.release()

    process = Worker(app, quiet=True, override_logging=False, redirect_stdouts=False, loop=loop)
    process.spinner = None
    process.execute_from_commandline()


if __name__ == "__main__":
    main()

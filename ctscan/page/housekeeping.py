"""What Gradio would keep for clients that never come back, let go while the app runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from gradio.queueing import Queue
from starlette.applications import Starlette

from ctscan.page.temporary_folder import TemporaryFolder

PERIOD = 5.0  # s between two looks
ABANDONED = 60.0  # s that an upload may stand still
UNREAD = 32  # answers that may wait for their client; about 0.6 MB each


class Housekeeping:
    """Looks after a temporary folder and a queue for as long as the server lives."""

    def __init__(self, folder: TemporaryFolder, queue: Queue) -> None:
        self.folder = folder
        self.queue = queue

    def __call__(self, _: Starlette) -> AbstractAsyncContextManager[None]:
        """The server's lifespan."""
        return self._run()

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            self.forget()
            await asyncio.to_thread(self.folder.delete_abandoned, ABANDONED)

    def forget(self) -> None:
        """Drop the bookkeeping of sessions that wait for nothing, and all but the last answers that nobody fetched.

        To be called in the server's thread, which no session can enter meanwhile.
        """
        messages, events = self.queue.pending_messages_per_session, self.queue.pending_event_ids_session
        waiting = {s for s, ids in events.items() if any(i in self.queue.event_ids_to_events for i in ids)}
        done = [s for s in events if not events[s] or s not in messages]
        unread = [s for s in messages if s not in waiting and not messages[s].empty()]
        for session in [*done, *unread[:-UNREAD]]:
            messages.pop(session, None)
            events.pop(session, None)

"""The classifier as one tool of the Model Context Protocol, at /mcp. A picture comes in the call, not as an address."""

from __future__ import annotations

import base64
import binascii
import json
from contextlib import AbstractAsyncContextManager

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import CallToolResult, ImageContent, TextContent
from starlette.routing import BaseRoute

from ctscan.notices import catalogue
from ctscan.page.choice import read_choice
from ctscan.page.door import MAX_BYTES
from ctscan.page.views import Views


def build_tool(views: Views, desk: CapacityLimiter) -> tuple[list[BaseRoute], AbstractAsyncContextManager[None]]:
    """Routes of the tool, and what has to run while they are served.

    No sessions: each call is answered as one JSON and forgotten. Any host name is taken, as the page's own is: which
    names are right a proxy knows.
    """
    server = MCPServer("ctscan", instructions=catalogue()["page"]["disclaimer"], log_level="WARNING")

    @server.tool(title="ctscan", structured_output=False)
    async def classify_chest_ct_slice(
        picture: str, slice: int | None = None, window: str | None = None
    ) -> CallToolResult:
        """Classify one chest CT slice: research and education only, not for diagnosis.

        Says which of four classes a small network names for an axial chest CT slice (adenocarcinoma, large cell
        carcinoma, squamous cell carcinoma, normal), which it cannot rule out, and what is wrong with the picture.
        `verdict` ok has calibrated probabilities; `unusual` has raw scores that mean nothing; `refused` and
        `unreadable` have none. The picture that comes back is the slice under the map of the likeliest class.

        Args:
            picture: The slice as PNG, JPEG, WebP, BMP or TIFF, or as DICOM, NIfTI or NRRD, base64. No names in the
                picture.
            slice: Which slice of a medical file with several, from 0 at the feet; the middle one by default.
            window: Of a medical file: training (the default), lung, mediastinal, bone, file, or centre and width as
                -600/1500.
        """
        try:
            data = base64.b64decode(
                picture.partition(",")[2] if picture.startswith("data:") else picture, validate=True
            )
        except (binascii.Error, ValueError):
            return refused("no_base64")
        if len(data) > MAX_BYTES:
            return refused("large")
        try:
            choice = read_choice(slice, window)
        except ValueError:
            return refused("odd_choice")
        answer, overlay = await run_sync(views.classify, data, choice, limiter=desk)
        said = {"disclaimer": catalogue()["page"]["disclaimer"], **answer}
        content: list[TextContent | ImageContent] = [TextContent(type="text", text=json.dumps(said))]
        if overlay is not None:
            encoded = base64.b64encode(overlay).decode()
            content.append(ImageContent(type="image", data=encoded, mime_type="image/png"))
        return CallToolResult(content=list(content))

    anybody = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(
        json_response=True, stateless_http=True, transport_security=anybody, max_request_body_size=2 * MAX_BYTES
    )
    return list(app.routes), server.session_manager.run()


def refused(reason: str) -> CallToolResult:
    """An error in a sentence of ours."""
    sentence = catalogue()["page"]["reasons"][reason]
    return CallToolResult(content=[TextContent(type="text", text=sentence)], is_error=True)

# Law of this file: nobody is told of requests unless the operator says whom.

from __future__ import annotations

from pydantic import Field

from server.setting_types import BaseUrl, Section
from server.settings_upstreams import Network


class TracingSettings(Section):
    """Traces of requests, sent to a collector of OpenTelemetry; needs `offramp[otel]`."""

    endpoint: BaseUrl | None = Field(
        None,
        description="Base URL of a collector that takes OTLP over HTTP, such as"
        " http://127.0.0.1:4318; traces go to `/v1/traces` below it. By default there are none."
        " Headers that it demands are in the variable `OTEL_EXPORTER_OTLP_HEADERS`.",
    )
    share: float = Field(
        0.01,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of the requests that are traced, drawn by chance: 0 none, 1 all.",
    )
    service: str = Field(
        "offramp", min_length=1, description="How this server is called in traces (`service.name`)."
    )
    accept_from: tuple[Network, ...] = Field(
        (),
        description="Addresses and networks whose header `traceparent` is believed: a request of"
        " theirs is part of their trace, and is traced if they say so. Of others it is ignored, or"
        " any client could have everything traced.",
    )

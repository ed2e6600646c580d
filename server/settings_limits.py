# Law of this file: every limit has a name, a default and a reason. What a client can have this
# server do is bounded, and so is how long it takes to stop.

from __future__ import annotations

from pydantic import Field

from server.setting_types import Duration, Section, Size


class LimitSettings(Section):
    """Bounds on what a client can make this server do."""

    request_body: Size = Field(
        16 << 20,
        description="Bytes of one fetch request after decompression: 300,000 wants and haves,"
        " or 700,000 nodes of Mercurial.",
    )
    push_body: Size = Field(4 << 30, description="Bytes of one push after decompression.")
    programs: int = Field(
        8, ge=1, description="Programs and runs side by side in one server process."
    )
    queue: int = Field(
        256,
        ge=0,
        description="Runs that wait for their turn in one server process. Equal questions are one"
        " run, and what is answered from the cache needs none. Beyond it clients are answered 503:"
        " their turn would come later than they would try again.",
    )
    connections: int = Field(
        4096,
        ge=1,
        description="Open connections of one server process. Beyond it requests on new ones are"
        " answered 503, but for content on a sixteenth more. Each that is being sent to can hold a"
        " buffer of half a MiB.",
    )
    rate: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Requests a second that one client may make for long, in each server process;"
        " 0: any number. A client is an IPv4 address, or an IPv6 /56. Beyond it is answered 429.",
    )
    burst: int = Field(
        200,
        ge=1,
        description="Requests that a client which was quiet may make at once, where limits.rate is"
        " set. A clone is 3 to 5 requests, and one address may stand for a whole office.",
    )
    figures: int = Field(
        2000,
        ge=1,
        description="Repositories that have figures of their own in one server process. Those"
        " that are asked for when there are so many are counted together, as `-/other`: at some"
        " upstreams one repository has many names, and each figure costs whoever reads them.",
    )
    program_time: Duration = Field(
        3600.0, gt=0, description="Longest run of one program; then it is ended."
    )
    request_time: Duration = Field(
        60.0, gt=0, description="Time in which a client must have sent its request."
    )
    stall_time: Duration = Field(
        300.0, gt=0, description="Time for which a client may take no byte of an answer."
    )
    stop_delay: Duration = Field(
        0.0,
        le=600,
        description="Time after SIGTERM in which everything is still answered, while /-/readyz says"
        " 503: as long as a load balancer takes to see that.",
    )
    stop_time: Duration = Field(
        30.0,
        description="Time for which answers that are under way may go on when the server stops;"
        " after it they are cut off.",
    )

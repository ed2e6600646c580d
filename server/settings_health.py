# Law of this file: how soon a dead target is noticed, and how soon it is trusted again, is said in
# times that can be kept.

from __future__ import annotations

from pydantic import Field, model_validator

from redirects.health import Rules
from server.setting_types import Duration, Section


class HealthSettings(Section):
    """How targets are watched, so that clients are sent to none that does not answer."""

    interval: Duration = Field(
        10.0,
        ge=0.1,
        le=3600.0,
        description="From the moment a target dies, this passes at most before no new redirect"
        " names it. Each server process probes each target, by two or three small requests.",
    )
    timeout: Duration = Field(
        4.0, gt=0, description="Time of one probe; at most half of the interval."
    )
    jitter: float = Field(
        0.25,
        ge=0,
        le=0.9,
        description="Share by which the pauses between probes are shortened at most, by chance, so"
        " that many servers do not ask a target all at once.",
    )
    down_after: int = Field(
        2,
        ge=1,
        le=100,
        description="Probes that must fail, one after another, for a target to be down. It is not"
        " named from the first one on, and probed again half a second later. One that came back"
        " less than ten minutes ago is down by one.",
    )
    up_after: int = Field(
        2,
        ge=1,
        le=100,
        description="Probes that must come back, one after another, for a target that was down to"
        " be named again. One that is down again less than ten minutes after an outage must"
        " answer for ten to fifteen minutes.",
    )
    suspicion: Duration = Field(
        30.0,
        le=600.0,
        description="A client that asks the same again so soon after it was sent to a target is"
        " answered inline, and the target probed at once. 0: never; for where the same machine"
        " asks the same again and again on purpose.",
    )

    @model_validator(mode="after")
    def _can_be_kept(self) -> HealthSettings:
        if self.timeout > self.interval / 2:
            raise ValueError(
                f"health.timeout ({self.timeout:g} s) must be at most half of health.interval"
                f" ({self.interval:g} s), or a dead target is noticed too late"
            )
        return self

    @property
    def rules(self) -> Rules:
        """When targets are probed, and what follows from it."""
        return Rules(self.interval, self.timeout, self.jitter, self.down_after, self.up_after)

# Law of this file: a repository's capabilities are what hg says of it; the words about HTTP are
# ours, since it is our HTTP, and so are those about clone bundles, since they are ours.

from __future__ import annotations

from typing import Final

from repos.hg.repository import HgSnapshot
from server.settings_repositories import HgSettings
from wire.hg.v1.capabilities import Capabilities, decode_bundle2, encode_bundle2

# Engines of streamed answers, in our order of preference.
ENGINES: Final = ("zstd", "zlib", "none")

# Bytes of one header line of arguments. A fetch by a client with many heads has many, and servers
# bound how many lines there are (ours takes 128, hgweb 100), as well as how long each is: 8 KiB.
HEADER: Final = 8000

CLONE_BUNDLES: Final = ("clonebundles", "clonebundles_manifest")

# About a connection that is not ours, or about streams.
_SSH: Final = ("protocaps",)
_STREAMS: Final = ("stream", "stream-preferred", "streamreqs")


def capabilities(snapshot: HgSnapshot, settings: HgSettings, *, bundles: bool) -> Capabilities:
    """The capabilities of a repository that we index.

    Pushes are among them whether or not they are accepted: who is told nothing of them says so to
    its user, in words that help nobody, and who pushes is told why not.

    Args:
        snapshot: what it serves.
        settings: of Mercurial repositories.
        bundles: there are clone bundles of it.
    """
    words = Capabilities.parse(b" ".join(sorted(snapshot.capabilities))).without(_SSH)
    if not streams(snapshot, settings):
        words = without_streams(words)
    return words.with_words(
        f"httpheader={HEADER}",
        "httpmediatype=0.1rx,0.1tx,0.2tx",
        f"compression={','.join(ENGINES)}",
        *(CLONE_BUNDLES if bundles else ()),
    )


def streams(snapshot: HgSnapshot, settings: HgSettings) -> bool:
    """Whether the store's own files may be sent: nothing in them is secret or hidden.

    They bring phases with them, so drafts may be among them, unlike in a stream of version 2.
    """
    return settings.stream_clones and snapshot.store_served


def without_streams(words: Capabilities) -> Capabilities:
    """The same without a word of streamed stores."""
    words = words.without(_STREAMS)
    blob = words.value("bundle2")
    if blob is None:
        return words
    said = decode_bundle2(blob.encode("ascii"))
    said.pop("stream", None)
    return words.with_words(f"bundle2={encode_bundle2(said).decode('ascii')}")


def edited(theirs: Capabilities, *, bundles: bool) -> Capabilities:
    """The capabilities that another server says of a repository, as they are said here."""
    # Arguments in bodies cannot be repeated to another place, nor be told apart by a cache.
    words = theirs.without(("httppostargs",))
    return words if bundles else words.without(CLONE_BUNDLES)

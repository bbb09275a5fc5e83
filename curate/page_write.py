"""Where the page or the card of a version goes. Stands between the command and `page`; all that it costs is in `page`."""

import fsspec

from curate.manifest import Manifest, ManifestError
from curate.page import gather
from curate.page_card import card
from curate.page_html import page
from curate.store import Store


def write_report(store: Store, manifest: Manifest, *, out: str | None = None, as_card: bool = False) -> str:
    """Write the page of a version, or its dataset card, and give the path.

    It lies under reports/ beside the versions, which never change; the same version gives the same bytes, so writing again is safe.
    `out` is another file, a path or an fsspec URL. Raises ManifestError where that cannot be written.
    """
    data = gather(store, manifest)
    text = (card(data) if as_card else page(data)).encode()
    if out is None:
        path = f"reports/{manifest.version}.{'md' if as_card else 'html'}"
        store.write_bytes(path, text)
        return store.url(path)
    try:
        with fsspec.open(out, "wb", auto_mkdir=True) as file:
            file.write(text)
    except (OSError, ValueError) as error:
        raise ManifestError(f"--out {out!r} cannot be written ({error}); name a file in a folder that you may write to") from None
    return out

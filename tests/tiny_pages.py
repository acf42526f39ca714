"""The demo's page as Streamlit runs it, without a browser: what tests press, fill in and upload."""

import mimetypes
from io import BytesIO

from PIL import Image
from script_modules import SCRIPTS

SCRIPT = SCRIPTS / "sample_conditional.py"


def labelled(elements, label):
    """The only one of `elements` with this label."""
    (found,) = [element for element in elements if element.label == label]
    return found


def press_sample(page):
    """Sample, which must succeed; the result."""
    labelled(page.button, "Sample").click().run()
    assert not page.exception and not page.error, [error.value for error in [*page.exception, *page.error]]
    return page.session_state["result"]


def png(array):
    """The content of a PNG file."""
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def shown(elements):
    """The texts of messages as they are read."""
    return [element.value.replace("\\", "") for element in elements]


def upload(page, label, name=None, content=None):
    """Put a file into an uploader, or take it away."""
    value = None if name is None else (name, content, mimetypes.guess_type(name)[0])
    labelled(page.file_uploader, label).set_value(value).run()

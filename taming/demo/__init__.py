"""The demo in the browser: `page` draws it with Streamlit, everything else does without."""

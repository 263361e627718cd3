"""The Text2Video tab: the same in every web UI and alone. The only place that knows gradio.

    tab.py       what is where, and what calls what     controls.py   fields of the request as components, and back
    handlers.py  what happens when something is used    show.py       everything that is shown as HTML
    wiring.py    from events to handlers                compat.py     what differs between versions of gradio
    server.py    the tab as a page of its own
"""

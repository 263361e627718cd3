"""The API: films asked for over HTTP. FastAPI is known here and nowhere else.

    a call ─ body.py ─▶ values ─ dropin.py, orders.py ─▶ VideoRequest ─ service.py ─▶ Job ─ status.py ─▶ JSON

    attach.py     puts the routes into an app         routes.py    how a route answers, also when it refuses
    access.py     who may call                        schema.py    what OpenAPI says, from the fields of the request
    body.py       query, form and JSON alike          files.py     uploads, and paths that stay where they may be
    orders.py     a request, checked before it waits  dropin.py    /t2v/run, as sd-webui-text2video had it
    service.py    jobs, and whose they are            weights.py   its key frames
    history.py    jobs that outlive the program       status.py    a job as JSON
    v1.py         /t2v/v1/jobs and what they bring    films.py     films, and parts of them
    about.py      /t2v/v1/models, samplers, doctor, downloads, ...

Nothing here holds up the event loop: what may take time runs in threads of our own (`routes.aside`), and who waits for
a film waits asleep.
"""

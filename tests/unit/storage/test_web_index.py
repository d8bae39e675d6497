"""The pages on which web servers list a folder.

Those of Apache 2.4, Caddy 2.6, nginx 1.22 and Python 3.11 are shortened copies of what they
answered. That of IIS is written by hand, in its form with whole paths and `<A HREF`.
"""

from __future__ import annotations

import pytest

from clipfleet.storage.stores.web_index import listed_names

URL = "http://host:8080/my%20photos/"
NAMES = {"%281%29%2B2.jpg", "sub/", "x%26y.png", "%E4%B8%80%20%231%3F%25.png"}

# Each server's own links to `(1)+2.jpg`, `sub/`, `x&y.png` and `一 #1?%.png`, and its others.
APACHE = """<html><head><title>Index of /my photos</title></head><body><table>
<tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th></tr>
<tr><td><a href="/">Parent Directory</a></td></tr>
<tr><td><a href="(1)+2.jpg">(1)+2.jpg</a></td></tr> <tr><td><a href="sub/">sub/</a></td></tr>
<tr><td><a href="x&amp;y.png">x&amp;y.png</a></td></tr>
<tr><td><a href="%e4%b8%80%20%231%3f%25.png">一 #1?%.png</a></td></tr></table></body></html>"""
CADDY = """<title>my photos</title><h1><a href="../">/</a><a href="">my photos</a>/</h1>
<a href="?sort=namedirfirst&order=desc" class="icon"></a><a href="..">Up</a><a href="./sub/">sub</a>
<a href="./%281%29+2.jpg">(1)+2.jpg</a><a href="./x&amp;y.png">x&y.png</a>
<a href="./%E4%B8%80%20%231%3F%25.png">…</a><a href="https://caddyserver.com">Caddy</a>"""
IIS = """<title>host - /my photos/</title><pre><A HREF="/">[To Parent Directory]</A><br>
<A HREF="/my%20photos/(1)+2.jpg">(1)+2.jpg</A><br><A HREF="/my%20photos/sub/">sub</A><br>
<A HREF="/my%20photos/x&amp;y.png">x</A><A HREF="/my%20photos/%E4%B8%80%20%231%3F%25.png">y</A>"""
NGINX = """<head><title>Index of /my photos/</title></head><pre><a href="../">../</a>
<a href="sub/">sub/</a>        01-Dec-2026 12:27        -
<a href="%281%29%2B2.jpg">(1)+2.jpg</a>        01-Dec-2026 12:27        1
<a href="x%26y.png">x&amp;y.png</a> 1 <a href="%E4%B8%80%20%231%3F%25.png">一 #1?%.png</a></pre>"""
PYTHON = """<title>Directory listing for /my photos/</title><ul>
<li><a href="%281%29%2B2.jpg">(1)+2.jpg</a></li><li><a href="sub/">sub/</a></li>
<li><a href="x%26y.png">x&amp;y.png</a></li>
<li><a href="%E4%B8%80%20%231%3F%25.png">一 #1?%.png</a></li></ul>"""


def names_in(html: str) -> set[str] | None:
    page = html.encode("utf-8", "surrogateescape")
    return listed_names(URL, (page[start : start + 7] for start in range(0, len(page), 7)))


@pytest.mark.parametrize("html", [APACHE, CADDY, IIS, NGINX, PYTHON])
def test_each_servers_page_lists_its_files_and_subfolders_in_one_form(html: str) -> None:
    assert names_in(html) == NAMES


@pytest.mark.parametrize(
    "href",
    [
        *("a.jpg?size=small", "?C=N;O=D", "#top", "", "/", ".", "../other/a.jpg", "sub/deep.jpg"),
        *("//elsewhere/my%20photos/a.jpg", "http://elsewhere/a.jpg", "mailto:me@host"),
        *("%2e%2e/", "..%2Fa.jpg/b", "http://[host/a.jpg", "javascript:void(0)"),
    ],
)
def test_a_link_that_leads_elsewhere_is_no_file_of_the_folder(href: str) -> None:
    assert names_in(f'<title>Index of /</title><a href="{href}">a</a><a>b</a>') == set()


@pytest.mark.parametrize(
    ("html", "names"),
    [
        ("<title>Index of /my photos</title><a href='/'>up</a>", set()),
        ("<title>empty</title><a href='..'>Up</a>", set()),
        ("<title>Our photos</title><a href='/'>home</a> index of", None),
        ("<title>Index of /</title><![unknown[ ]]>", None),
        ("", None),
    ],
)
def test_an_empty_folder_is_an_index_and_another_page_is_none(
    html: str, names: set[str] | None
) -> None:
    assert names_in(html) == names


def test_a_name_that_is_not_utf_8_keeps_its_bytes() -> None:
    assert names_in('<a href="caf%e9.jpg">c</a>') == {"caf%E9.jpg"}
    assert names_in('<a href="caf\udce9 1.jpg">c</a>') == {"caf%E9%201.jpg"}
    assert names_in('<a href="a%2Fb.jpg">c</a>') == {"a%2Fb.jpg"}

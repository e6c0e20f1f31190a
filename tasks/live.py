"""Answers to a page that looks again and again by itself, through static/live.js."""

from django.http import HttpRequest, HttpResponse


def looked_at(request: HttpRequest, html: str) -> HttpResponse:
    """`html`, from what the page takes the parts with the ids that it knows."""
    # Looking is no click: without this, an open page would keep its login for ever, and write the session each second.
    del request.session
    return HttpResponse(html, headers={"Cache-Control": "no-store, private"})

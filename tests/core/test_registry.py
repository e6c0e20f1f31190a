"""Kinds are found by name and imported on first use."""

import pytest

from exporter_site.registry import Registry


def test_a_class_is_imported_only_when_it_is_asked_for() -> None:
    registry: Registry[object] = Registry(
        {"good": ("Good", "decimal.Decimal"), "bad": ("Bad", "no_such_driver.Connector")}
    )
    assert list(registry) == ["good", "bad"]
    assert registry.choices() == [("good", "Good"), ("bad", "Bad")]
    assert registry.label("bad") == "Bad"
    assert registry.get("good").__name__ == "Decimal"
    with pytest.raises(ImportError):
        registry.get("bad")


def test_an_unknown_kind_is_a_key_error() -> None:
    registry: Registry[object] = Registry({})
    assert "x" not in registry
    with pytest.raises(KeyError):
        registry.get("x")
    with pytest.raises(KeyError):
        registry.label("x")

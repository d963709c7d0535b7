"""What a model card says of the weights under an adapter."""

from ossicle.share.card import card


def made(**origin: object) -> str:
    encoders = {"mn04": origin} if origin else {}
    manifest = {
        "task": "classify", "adapter": "probe()",
        "backbone": {"name": "mn04", "digest": "ab" * 32, "encoders": encoders},
        "parameters": {"adapter": 1, "backbone": 100},
        "data": {"name": "birds", "train": 1, "val": 1, "test": 1, "licences": {"CC0-1.0": 3}},
    }  # fmt: skip
    return card("birds", manifest, "names sounds", "predict birds x.wav")


def test_weights_nobody_could_check_are_called_unverified() -> None:
    assert "| weights of mn04 | from url: https://a.org/a.pt |" in made(
        source="url", origin="https://a.org/a.pt", verified=True
    )
    told = made(source="url", origin="https://a.org/a.pt", verified=False)
    assert "from url: https://a.org/a.pt, unverified: no known digest agreed with theirs" in told
    assert "from a file of its own: mine.pt, unverified" in made(source="path", origin="mine.pt", verified=False)


def test_manifests_of_older_versions_do_not_say() -> None:
    assert "weights of mn04" not in made()

"""What an app is told that imports Horovod where TensorFlow is too new for it."""

from __future__ import annotations

from importlib import metadata

import pytest

from tfos.compat import horovod
from tfos.errors import UsageError

NOT_BUILT = (
    "Extension horovod.tensorflow has not been built: /x/mpi_lib.so not found\n"
    "If this is not expected, reinstall Horovod with HOROVOD_WITH_TENSORFLOW=1 to debug the build"
)


@pytest.fixture
def tensorflow(monkeypatch):
    """Makes it seem to be of that version, or not there."""

    def be(version):
        def found(name):
            assert name == "tensorflow"
            if version is None:
                raise metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(metadata, "version", found)

    return be


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'horovod'", name="horovod"),
        ModuleNotFoundError("No module named 'horovod.keras'", name="horovod.keras"),
        ImportError(NOT_BUILT),
    ],
)
@pytest.mark.parametrize("version", ["2.19.0", "2.21.0", "2.22.0rc1", "3.0.0"])
def test_says_what_to_use_instead(tensorflow, version, error):
    tensorflow(version)
    with pytest.raises(UsageError) as caught, horovod.explained():
        raise error
    first = str(error).splitlines()[0]
    assert str(caught.value) == (
        f"Horovod cannot be imported: {first}. Its last release, 0.28.1, builds with TensorFlow up"
        f" to 2.18, and its Keras part up to 2.15; here is {version}. Use --strategy multi-worker,"
        " TensorFlow's own allreduce, or PyTorch or JAX under --strategy gang; or install"
        " tensorflow==2.15.* and Horovod with it (docs/GANG.md)"
    )
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("version", "error"),
    [
        # it only has to be installed, or built
        ("2.15.1", ModuleNotFoundError("No module named 'horovod'", name="horovod")),
        ("2.18.1", ImportError(NOT_BUILT)),
        (None, ModuleNotFoundError("No module named 'horovod'", name="horovod")),
        ("2.21.0", ModuleNotFoundError("No module named 'torch'", name="torch")),
        ("2.21.0", ImportError("cannot import name 'x' from 'y'")),
        ("2.21.0", ValueError("horovod")),
    ],
)
def test_other_errors_are_what_they_are(tensorflow, version, error):
    tensorflow(version)
    with pytest.raises(type(error)) as caught, horovod.explained():
        raise error
    assert caught.value is error

"""vLLM's models: downloaded into the Hugging Face cache, and deleted from where they are ours."""

from collections.abc import Callable
from pathlib import Path

from backends.engines.base import Cancelled, Transfer
from backends.engines.huggingface import api
from backends.engines.huggingface.cache import Repository, remove
from backends.engines.huggingface.download import download
from backends.engines.models_on_disk import hub_folder, problem_of, resolve
from backends.engines.vllm import places
from backends.engines.vllm.command import model_places
from backends.engines.vllm.options import VllmOptions
from backends.errors import DeleteFailed, ModelNotOurs, PullFailed, UnknownModel


def hub_to_fill(options: VllmOptions) -> Path:
    """Return the cache that downloads go into: ``downloadDir``, else the Hugging Face cache."""
    return Path(options.downloadDir).expanduser() if options.downloadDir else hub_folder()


def check_pull(options: VllmOptions, model: str) -> None:
    """Raise ``UnknownModel`` for a name that the Hub cannot have."""
    del options
    if not api.is_model_name(model):
        message = f"“{model}” is no name on {api.host()}: write publisher/name, Qwen/Qwen2.5-14B-Instruct."
        raise UnknownModel(message, param="model")


def pull(
    options: VllmOptions,
    model: str,
    *,
    report: Callable[[Transfer], None],
    cancelled: Cancelled,
) -> None:
    """Download ``model``; of the configured one the configured revision. Raises as ``Engine.pull`` says."""
    check_pull(options, model)
    revision = options.revision if model == options.model else None
    snapshot = download(
        model,
        revision=revision or api.DEFAULT_REVISION,
        hub=hub_to_fill(options),
        report=report,
        cancelled=cancelled,
    )
    problem = problem_of(snapshot)
    if problem and (snapshot / "config.json").exists():
        raise PullFailed(f"{model} is downloaded, and cannot be served: {problem}", param="model")


def check_delete(options: VllmOptions, model: str) -> None:
    """Raise for a model that is not here, or not ours to delete."""
    if _place(options, model) is None:
        raise _why_not(options, model)


def delete(options: VllmOptions, model: str) -> None:
    """Delete ``model``: its repository in the cache with every revision, else its folder among mh's own.

    Raises:
        UnknownModel, ModelNotOurs, DeleteFailed.
    """
    place = _place(options, model)
    if place is None:
        raise _why_not(options, model)
    try:
        if isinstance(place, Repository):
            place.delete()
        else:
            remove(place, place.with_name(f".{place.name}.deleted"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise DeleteFailed(f"Not all of {model} could be deleted: {reason}.") from error


def _place(options: VllmOptions, model: str) -> Repository | Path | None:
    """Return what of ours is served under a name; None where that is not ours, or there is nothing.

    The order is that of the models: folders go before caches.
    """
    if not api.is_model_name(model):
        return None
    own, *others = model_places(options).folders
    if (own / model).is_dir():
        return own / model
    if any((folder / model).is_dir() for folder in others):
        return None
    for hub in model_places(options).hubs:
        if Repository(hub, model).folder.is_dir():
            return Repository(hub, model)
    return None


def _why_not(options: VllmOptions, model: str) -> UnknownModel | ModelNotOurs:
    path = resolve(model, model_places(options), options.revision)
    if path is None:
        return UnknownModel(f"vLLM has no model “{model}” on this machine.", param="model")
    return ModelNotOurs(
        f"{path} is in a folder that this site only reads. Delete it there yourself; the site deletes "
        f"models in {places.models_folder()} and in the Hugging Face cache.",
        param="model",
    )

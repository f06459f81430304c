"""Which model a plan is made for: a file, a folder, a config.json, or a family by name, before anything is there."""

from pathlib import Path

from k2lite.config_json import config_from_json
from k2lite.model_bytes import SizedTensor, model_bytes, model_bytes_of_config, model_bytes_of_file
from k2lite.nf4_experts import nf4_tensors
from k2lite.synth.families import published_shapes
from k2lite.synth.shapes import Shape, shape_of
from offload.model_bytes import ModelBytes
from quant.errors import RequestError
from quant.files.bounded_json import read_json_object
from quant.files.paths import is_folder
from quant.nf4.nf4_file import Nf4Folder, is_nf4_folder
from quant.recipe.recipe import recipe_named

_ALIASES = {"v2-lite": "deepseek-v2-lite", "v3": "deepseek-v3", "r1": "deepseek-v3", "kimi-k2": "k2"}
_MAX_CONFIG_BYTES = 16 << 20
_DEFAULT_RECIPES = {"int4": "INT4"}
_DEFAULT_RECIPE = "Q4_K_M"


def model_named(text: str, recipe_name: str | None) -> ModelBytes:
    """The model at the path or of the family `text`, quantized as `recipe_name` says (None: as it usually is).

    Raises K2Error; RequestError for a recipe beside a file that is quantized already.
    """
    path, shapes = Path(text), published_shapes()
    family = _ALIASES.get(text.lower(), text.lower())
    if family in shapes and not path.exists():
        return _planned(shapes[family], recipe_name, family)
    if is_folder(path):
        if (path / "config.json").exists() and is_nf4_folder(path):
            return _of_nf4(path, recipe_name)
        path = path / "config.json"
    if not path.exists():
        known = ", ".join((*shapes, *_ALIASES))
        raise RequestError(f"there is no {path}, and no family of that name: known are {known}")
    if path.suffix == ".json":
        return _planned(shape_of(read_json_object(path, _MAX_CONFIG_BYTES)), recipe_name, path.resolve().parent.name)
    _refuse_type(path, recipe_name)
    return model_bytes_of_file(path)


def _of_nf4(folder: Path, recipe_name: str | None) -> ModelBytes:
    _refuse_type(folder, recipe_name)
    with Nf4Folder(folder) as opened:
        config = config_from_json(opened.config, name=folder.resolve().name)
        tensors = nf4_tensors(opened, config)
    sized = [SizedTensor(name, tensor.weights, tensor.nbytes) for name, tensor in tensors.items()]
    return model_bytes(sized, config, config.name)


def _refuse_type(path: Path, recipe_name: str | None) -> None:
    if recipe_name is not None:
        raise RequestError(f"{path} has its types already: leave out --type")


def _planned(shape: Shape, recipe_name: str | None, name: str) -> ModelBytes:
    recipe = recipe_named(recipe_name or _DEFAULT_RECIPES.get(shape.form, _DEFAULT_RECIPE))
    return model_bytes_of_config(config_from_json(shape.config), recipe, f"{name} {recipe.name}")

# mypy: ignore-errors
"""Turn a GGUF file into a folder vLLM can serve. Run by the engine's own Python, never imported here.

Usage: python demo_model.py FILE.gguf FOLDER
"""

import functools
import json
import sys
from pathlib import Path

import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

# Configuration, weights and tokenizer each read the whole file, and each weight makes the map of
# names again. Once is enough, and takes half the time.
gguf.GGUFReader = functools.cache(gguf.GGUFReader)
gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)

source, target = Path(sys.argv[1]), Path(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(
    source.parent,
    gguf_file=source.name,
    quantization_config=GgufConfig(dequantize=True),
    dtype=torch.bfloat16,
)
tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
model.save_pretrained(target)
tokenizer.save_pretrained(target)

# A model this small talks nonsense when it samples at temperature 1, the default of vLLM. What a
# model's folder recommends is vLLM's default for it; a request that names a temperature wins.
defaults = target / "generation_config.json"
values = json.loads(defaults.read_text()) | {"temperature": 0.0}
defaults.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")

"""Network modules (Equinox): a decoder of the Llama architecture with its weights, and a keypoint detector."""

from uqsparse.nn.compiled_blocks import compile_blocks
from uqsparse.nn.gguf_files import load_gguf
from uqsparse.nn.heatmap_network import HeatmapNetwork, HeatmapTraining, heatmaps, train_heatmap_network
from uqsparse.nn.llama import KVCache, Llama
from uqsparse.nn.llama_config import LlamaConfig
from uqsparse.nn.llama_decoding import LlamaDecoder
from uqsparse.nn.safetensors_files import load_safetensors
from uqsparse.nn.training import Plateau, Training, train_epoch, train_keeping_best

__all__ = [
    "HeatmapNetwork",
    "HeatmapTraining",
    "KVCache",
    "Llama",
    "LlamaConfig",
    "LlamaDecoder",
    "Plateau",
    "Training",
    "compile_blocks",
    "heatmaps",
    "load_gguf",
    "load_safetensors",
    "train_epoch",
    "train_heatmap_network",
    "train_keeping_best",
]

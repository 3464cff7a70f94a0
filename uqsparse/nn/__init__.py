"""Network modules (Equinox): sparse layers, a decoder of the Llama architecture, and a keypoint detector."""

from uqsparse.nn.attention import MultiHeadAttention
from uqsparse.nn.compiled_blocks import compile_blocks
from uqsparse.nn.episodic_training import EpisodicTraining, train_on_episodes
from uqsparse.nn.gaussian_layers import (
    GaussianConv,
    GaussianLinear,
    GaussianWeight,
    kl_divergence,
    sample_weights,
    to_bayesian,
    with_noise,
)
from uqsparse.nn.gguf_files import load_gguf
from uqsparse.nn.group_convolution import GroupConv
from uqsparse.nn.heatmap_network import HeatmapNetwork, HeatmapTraining, heatmaps, train_heatmap_network
from uqsparse.nn.iso_flop import IsoFlop, iso_flop
from uqsparse.nn.iso_flop_layers import SparseDoped, SparseFactorized, SparseParallel
from uqsparse.nn.linear import GroupLinear, SparseLinear
from uqsparse.nn.llama import KVCache, Llama
from uqsparse.nn.llama_config import LlamaConfig
from uqsparse.nn.llama_decoding import LlamaDecoder
from uqsparse.nn.packed_networks import load_packed, network_bytes, pack_network, save_packed
from uqsparse.nn.safetensors_files import load_safetensors
from uqsparse.nn.sets import ISAB, MAB, PMA, SAB, DeepSets, pool
from uqsparse.nn.streams import chain_streams, llama_streams
from uqsparse.nn.training import Plateau, Training, train_epoch, train_keeping_best
from uqsparse.nn.weight_units import WeightUnit

__all__ = [
    "ISAB",
    "MAB",
    "PMA",
    "SAB",
    "DeepSets",
    "EpisodicTraining",
    "GaussianConv",
    "GaussianLinear",
    "GaussianWeight",
    "GroupConv",
    "GroupLinear",
    "HeatmapNetwork",
    "HeatmapTraining",
    "IsoFlop",
    "KVCache",
    "Llama",
    "LlamaConfig",
    "LlamaDecoder",
    "MultiHeadAttention",
    "Plateau",
    "SparseDoped",
    "SparseFactorized",
    "SparseLinear",
    "SparseParallel",
    "Training",
    "WeightUnit",
    "chain_streams",
    "compile_blocks",
    "heatmaps",
    "iso_flop",
    "kl_divergence",
    "llama_streams",
    "load_gguf",
    "load_packed",
    "load_safetensors",
    "network_bytes",
    "pack_network",
    "pool",
    "sample_weights",
    "save_packed",
    "to_bayesian",
    "train_epoch",
    "train_heatmap_network",
    "train_keeping_best",
    "train_on_episodes",
    "with_noise",
]

"""Dimensions in, `Cost` out: the analytic model of DeepSeek-OCR. Imports no torch and holds no state."""

from dsocr_nvtx.analytic.attention import LlamaFlashAttention2, LlamaRotaryEmbedding
from dsocr_nvtx.analytic.build import build_analytic_layers_from_config
from dsocr_nvtx.analytic.clip import VitModel
from dsocr_nvtx.analytic.decoder import DeepseekV2DecoderLayer, TokenEmbedding
from dsocr_nvtx.analytic.experts import DeepseekV2MoE, MoEGate, RoutedExperts
from dsocr_nvtx.analytic.layer import Child, Layer, Node, walk
from dsocr_nvtx.analytic.mlp import DeepseekV2MLP, LmHead, MlpProjector
from dsocr_nvtx.analytic.model import DeepseekOCRModel, VisionTower
from dsocr_nvtx.analytic.norms import DeepseekV2RMSNorm, LayerNorm
from dsocr_nvtx.analytic.sam import ImageEncoderViT

__all__ = [
    "Child",
    "DeepseekOCRModel",
    "DeepseekV2DecoderLayer",
    "DeepseekV2MLP",
    "DeepseekV2MoE",
    "DeepseekV2RMSNorm",
    "ImageEncoderViT",
    "Layer",
    "LayerNorm",
    "LlamaFlashAttention2",
    "LlamaRotaryEmbedding",
    "LmHead",
    "MlpProjector",
    "MoEGate",
    "Node",
    "RoutedExperts",
    "TokenEmbedding",
    "VisionTower",
    "VitModel",
    "build_analytic_layers_from_config",
    "walk",
]

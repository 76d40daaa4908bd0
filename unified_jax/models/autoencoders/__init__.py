"""All that an autoencoder is made of, under one name: `uj.autoencoders.Pixels()`. Each is described where it is."""

from unified_jax.models.autoencoders.adversary import Adversary as Adversary
from unified_jax.models.autoencoders.base import AutoencoderLoss as AutoencoderLoss, Loss as Loss, Seen as Seen
from unified_jax.models.autoencoders.features import VisionFeatures as VisionFeatures
from unified_jax.models.autoencoders.perceptual import LpipsDistance as LpipsDistance
from unified_jax.models.autoencoders.terms import (
    Commitment as Commitment,
    Entropy as Entropy,
    Kl as Kl,
    Perceptual as Perceptual,
    Pixels as Pixels,
    ScaleEquivariance as ScaleEquivariance,
)
from unified_jax.models.autoencoders.views import EqVae as EqVae
from unified_jax.models.autoencoding import autoencoder as autoencoder
from unified_jax.models.gan_losses import Hinge as Hinge, Relativistic as Relativistic, Separable as Separable
from unified_jax.networks.autoencoders.coder import Levels as Levels
from unified_jax.networks.autoencoders.dc import DcAutoencoder as DcAutoencoder
from unified_jax.networks.autoencoders.kl import KlAutoencoder as KlAutoencoder
from unified_jax.networks.autoencoders.oobleck import Oobleck as Oobleck
from unified_jax.networks.autoencoders.quantise import EmaCodebook as EmaCodebook
from unified_jax.networks.autoencoders.scalar import Fsq as Fsq, Lfq as Lfq
from unified_jax.networks.autoencoders.scalar_coder import ScalarAutoencoder as ScalarAutoencoder
from unified_jax.networks.autoencoders.tiling import Tiling as Tiling
from unified_jax.networks.autoencoders.vq import VqAutoencoder as VqAutoencoder
from unified_jax.networks.patchgan import PatchGan as PatchGan

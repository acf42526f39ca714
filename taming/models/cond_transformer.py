"""The second stage: an autoregressive transformer over the codes of a first stage (Esser et al. 2021, section 3.2).

b batch, n known image tokens, l conditioning tokens, v vocabulary, (d, h, w) latent of the first stage.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.checkpoint import load_checkpoint, load_weights
from taming.config import instantiate_from_config
from taming.models.batches import image_from_batch
from taming.models.finite import check_finite
from taming.models.optimizers import can_fuse, with_schedule
from taming.modules.transformer.mingpt import choose_token, top_k_logits, top_k_top_p_filtering
from taming.modules.transformer.permuter import Identity
from taming.modules.util import SOSProvider

FIRST_STAGE = "__is_first_stage__"
UNCONDITIONAL = "__is_unconditional__"
Generators = torch.Generator | Sequence[torch.Generator] | None


def disabled_train(self, mode: bool = True):
    """Takes the place of `train` on a frozen stage, which stays in eval mode for ever."""
    return self


class Net2NetTransformer(pl.LightningModule):
    """Models p(image tokens | conditioning tokens) with a transformer; both stages that make the tokens are frozen.

    cond_stage_config may be "__is_first_stage__" (encode the conditioning with the first stage) or
    "__is_unconditional__" (a start token); conditioning and image tokens share one embedding table.
    """

    def __init__(
        self,
        transformer_config: Mapping,
        first_stage_config: Mapping,
        cond_stage_config: Mapping | str,
        permuter_config: Mapping | None = None,
        ckpt_path: str | None = None,
        ignore_keys: Sequence[str] = (),
        first_stage_key: str = "image",
        cond_stage_key: str = "depth",
        downsample_cond_size: int = -1,
        pkeep: float = 1.0,
        sos_token: int = 0,
        unconditional: bool = False,
        downsample_cond_factor: float | None = None,
        scheduler_config: Mapping | None = None,
    ) -> None:
        super().__init__()
        self.be_unconditional = unconditional
        self.sos_token = sos_token
        self.first_stage_key = first_stage_key
        self.cond_stage_key = cond_stage_key
        self.downsample_cond_size = downsample_cond_size
        self.downsample_cond_factor = downsample_cond_factor
        self.pkeep = pkeep
        self.scheduler_config = scheduler_config
        self.first_stage_model = _frozen(instantiate_from_config(first_stage_config))
        self._init_cond_stage(cond_stage_config)
        self.permuter = Identity() if permuter_config is None else instantiate_from_config(permuter_config)
        self.transformer = instantiate_from_config(transformer_config)
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys=ignore_keys)

    def _init_cond_stage(self, config: Mapping | str) -> None:
        if config == FIRST_STAGE:
            self.cond_stage_model = self.first_stage_model
        elif config == UNCONDITIONAL or self.be_unconditional:
            self.be_unconditional = True
            self.cond_stage_key = self.first_stage_key
            self.cond_stage_model = SOSProvider(self.sos_token)
        else:
            self.cond_stage_model = _frozen(instantiate_from_config(config))

    def init_from_ckpt(self, path: str, ignore_keys: Sequence[str] = ()):
        """Load a checkpoint's weights but for keys that begin with one of `ignore_keys`; reports what is missing."""
        return load_weights(self, load_checkpoint(path)["state_dict"], ignore_keys=ignore_keys, source=path)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Images x and conditioning c -> logits (b, h*w, v) and their targets (b, h*w), both in the permuter's order.

        In training, a fraction 1 - pkeep of the image tokens that the transformer reads is replaced by random ones.
        """
        _, target = self.encode_to_z(x)
        _, c_indices = self.encode_to_c(c)
        z_indices = target
        if self.training and self.pkeep < 1.0:
            keep = torch.bernoulli(self.pkeep * torch.ones(target.shape, device=target.device)).to(torch.int64)
            noise = torch.randint_like(target, self.transformer.config.vocab_size)
            z_indices = keep * target + (1 - keep) * noise
        logits, _ = self.transformer(torch.cat((c_indices, z_indices), dim=1)[:, :-1])
        return logits[:, c_indices.shape[1] - 1 :], target

    @torch.no_grad()
    def encode_to_z(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images -> quantized latents (b, d, h, w) and token indices int64 (b, h*w) in the permuter's order."""
        quant_z, _, info = self.first_stage_model.encode(x)
        return quant_z, self.permuter(info[2].view(quant_z.shape[0], -1))

    @torch.no_grad()
    def encode_to_c(self, c: Tensor):
        """Conditioning -> its quantized form (by the conditioning stage) and token indices int64 (b, l)."""
        if self.downsample_cond_size > -1:
            c = F.interpolate(c, size=(self.downsample_cond_size, self.downsample_cond_size))
        elif self.downsample_cond_factor is not None:
            c = F.interpolate(c, scale_factor=self.downsample_cond_factor)
        quant_c, _, info = self.cond_stage_model.encode(c)
        return quant_c, info[2].view(c.shape[0], -1)

    @torch.no_grad()
    def decode_to_img(self, index: Tensor, zshape: Sequence[int]) -> Tensor:
        """Token indices (b, h*w) or (b, h, w) in the permuter's order -> images, unclamped; zshape is (b, d, h, w)."""
        b, d, h, w = zshape
        index = self.permuter(index.reshape(b, -1), reverse=True)
        quant_z = self.first_stage_model.quantize.get_codebook_entry(index.reshape(-1), shape=(b, h, w, d))
        return self.first_stage_model.decode(quant_z)

    top_k_logits = staticmethod(top_k_logits)

    @torch.no_grad()
    def sample(
        self,
        x: Tensor,
        c: Tensor,
        steps: int,
        temperature: float = 1.0,
        sample: bool = False,
        top_k: int | None = None,
        callback: Callable[[int], None] = lambda k: None,
        top_p: float | None = None,
        generator: Generators = None,
    ) -> Tensor:
        """Continue the image tokens x (b, n), n >= 0, given c (b, l), by `steps` tokens -> (b, n + steps).

        Draws where `sample`, else takes the most likely token. `generator` is one, or one per row. callback(k) is
        called before step k. With pkeep <= 0 all image positions are predicted at once, the known ones anew.
        """
        assert not self.transformer.training, "sample in eval mode"
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "sample": sample, "generator": generator}
        if self.pkeep <= 0.0:
            return self._sample_at_once(x, c, steps, **options)
        known = torch.cat((c, x), dim=1)
        total = known.shape[1] + steps
        if total > self.transformer.block_size + 1:
            raise ValueError(
                f"{c.shape[1]} conditioning and {x.shape[1] + steps} image tokens do not fit into "
                f"block_size {self.transformer.block_size}; sample larger images by windows"
            )
        next_logits = self._next_logits(known, total)
        for k in range(steps):
            callback(k)
            probabilities = _probabilities(next_logits(known), temperature, top_k, top_p)
            known = torch.cat((known, choose_token(probabilities, sample=sample, generator=generator)), dim=1)
        return known[:, c.shape[1] :]

    def _next_logits(self, known: Tensor, total: int) -> Callable[[Tensor], Tensor]:
        """The function from all tokens so far to the logits (b, v) of the next, with a cache where that is exact."""
        n_unmasked = self.transformer.config.n_unmasked
        if not hasattr(self.transformer, "forward_cached") or known.shape[1] < n_unmasked:
            return lambda tokens: self.transformer(tokens)[0][:, -1]
        cache = self.transformer.new_cache(known.shape[0], total - 1)
        return lambda tokens: self.transformer.forward_cached(tokens[:, cache.length :], cache)

    def _sample_at_once(self, x: Tensor, c: Tensor, steps: int, *, sample: bool, generator: Generators, **filters):
        length = x.shape[1] + steps
        if c.shape[1] != length:
            raise ValueError(f"pkeep <= 0 needs as many conditioning as image tokens: {c.shape[1]} against {length}")
        logits, _ = self.transformer(torch.cat((c, x, c[:, x.shape[1] : -1]), dim=1))
        probabilities = _probabilities(logits[:, c.shape[1] - 1 :], **filters)  # (b, n + steps, v)
        if generator is not None and not isinstance(generator, torch.Generator):
            generator = [row_generator for row_generator in generator for _ in range(length)]
        tokens = choose_token(probabilities.flatten(0, 1), sample=sample, generator=generator)
        return tokens.view(-1, length)

    def get_input(self, key: str, batch: Mapping) -> Tensor:
        """batch[key] as a tensor: images channel-first (b, c, h, w); labels and token lists as they are."""
        x = batch[key]
        if x.ndim >= 3:
            x = image_from_batch(x)
        return x.float() if x.dtype == torch.float64 else x

    def get_xc(self, batch: Mapping, N: int | None = None) -> tuple[Tensor, Tensor]:
        """Images and conditioning of a batch, the first N of each."""
        return self.get_input(self.first_stage_key, batch)[:N], self.get_input(self.cond_stage_key, batch)[:N]

    def shared_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        """Mean cross entropy of the image tokens in nats."""
        logits, target = self(*self.get_xc(batch))
        return F.cross_entropy(logits.flatten(0, 1), target.flatten())  # (b, h*w, v), (b, h*w) -> ()

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        loss = self.shared_step(batch, batch_idx)
        check_finite(self, {"train/loss": loss}, step=self.global_step, inputs={})
        self.log("train/loss", loss, prog_bar=True, logger=True, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        loss = self.shared_step(batch, batch_idx)
        check_finite(self, {"val/loss": loss}, step=self.global_step, inputs={})
        self.log("val/loss", loss, prog_bar=True, logger=True, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    @torch.no_grad()
    def log_images(
        self,
        batch: Mapping,
        temperature: float | None = None,
        top_k: int | None = None,
        callback: Callable[[int], None] | None = None,
        lr_interface: bool = False,
        **kwargs,
    ) -> dict[str, Tensor]:
        """Inputs, reconstructions, conditioning and three samples of at most four examples: given the upper half of
        the image's tokens, free, and the most likely token at each step."""
        if lr_interface:
            raise NotImplementedError("lr_interface belonged to a super-resolution variant that was never published")
        x, c = self.get_xc(batch, N=4)
        quant_z, z_indices = self.encode_to_z(x)
        quant_c, c_indices = self.encode_to_c(c)
        options = {
            "c": c_indices,
            "callback": callback or (lambda k: None),
            "temperature": 1.0 if temperature is None else temperature,
            "top_k": 100 if top_k is None else top_k,
        }
        length = z_indices.shape[1]
        half = z_indices[:, : length // 2]
        log = {"inputs": x, "reconstructions": self.decode_to_img(z_indices, quant_z.shape)}
        log |= self._log_conditioning(c, quant_c)
        indices = {
            "samples_half": self.sample(half, steps=length - half.shape[1], sample=True, **options),
            "samples_nopix": self.sample(half[:, :0], steps=length, sample=True, **options),
            "samples_det": self.sample(half[:, :0], c_indices, steps=length, callback=options["callback"]),
        }
        return log | {key: self.decode_to_img(index, quant_z.shape) for key, index in indices.items()}

    def _log_conditioning(self, c: Tensor, quant_c: Tensor) -> dict[str, Tensor]:
        if self.cond_stage_key == "image" or not hasattr(self.cond_stage_model, "decode"):
            return {}
        reconstruction = self.cond_stage_model.decode(quant_c)
        if self.cond_stage_key == "segmentation":
            n_labels = reconstruction.shape[1]
            c, reconstruction = (
                self.cond_stage_model.to_rgb(F.one_hot(x.argmax(dim=1), n_labels).permute(0, 3, 1, 2).float())
                for x in (c, reconstruction)
            )
        return {"conditioning_rec": reconstruction, "conditioning": c}

    def configure_optimizers(self):
        """AdamW; weight decay 0.01 on the weights of linear layers only, groups sorted by name (published order)."""
        linear = {
            f"{name}.weight" for name, module in self.transformer.named_modules() if isinstance(module, nn.Linear)
        }
        parameters = dict(self.transformer.named_parameters())
        groups = [
            {"params": [parameters[name] for name in sorted(linear)], "weight_decay": 0.01},
            {"params": [parameters[name] for name in sorted(parameters.keys() - linear)], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.95), fused=can_fuse(self))
        return with_schedule(optimizer, self.scheduler_config)


def _frozen(stage):
    """A stage in eval mode for ever, without gradients; stages may be plain objects."""
    stage = stage.eval()
    stage.train = partial(disabled_train, stage)  # a bound method of it could not be pickled for spawned processes
    if isinstance(stage, nn.Module):
        stage.requires_grad_(False)
    return stage


def _probabilities(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits (..., v) -> what is drawn from: scaled by 1 / temperature, filtered, normalised."""
    return top_k_top_p_filtering(logits / temperature, top_k=top_k, top_p=top_p).softmax(dim=-1)

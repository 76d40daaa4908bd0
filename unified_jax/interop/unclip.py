r"""unCLIP's conditions as diffusers stores them (UnCLIPTextProjModel) <-> our tree.

theirs                                              ours
learned_classifier_free_guidance_embeddings         null_image
embedding_proj                                      text_time
clip_image_embeddings_project_to_time_embeddings    image_time
clip_extra_context_tokens_proj                      extra_kernel, extra_bias
encoder_hidden_states_proj                          text
text_encoder_hidden_states_norm                     norm
"""

from unified_jax.interop.table import BIAS, Form, Line, Table, linear, norm

EXTRA = "clip_extra_context_tokens_proj"
TABLE: Table = (
    Line("null_image", ("learned_classifier_free_guidance_embeddings",)),
    *linear("text_time", "embedding_proj"),
    *linear("image_time", "clip_image_embeddings_project_to_time_embeddings"),
    Line("extra_kernel", (f"{EXTRA}.weight",), Form(inputs=1)),
    Line("extra_bias", (f"{EXTRA}.bias",), BIAS),
    *linear("text", "encoder_hidden_states_proj"),
    *norm("norm", "text_encoder_hidden_states_norm"),
)

"""Looking into a trained model: attention maps, loss over time beside its floor, the noise of its gradients."""

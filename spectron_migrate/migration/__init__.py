"""The steps on memories: export, plan, replay, follow, reconcile, erase; one call each, a summary back."""

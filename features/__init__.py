"""The feature store: what is known of a user, a rater, a question; the same values in training and in serving, by Feast.

Off until FLYWHEEL_FEATURES_URL names a feature server. It has an environment of its own, `.venv/features` (requirements/features.in):

    .venv/features/bin/python -m tasks.features --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/features
    .venv/features/bin/python -m features.server
"""

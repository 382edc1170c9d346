# Who may touch what: the service accounts that config/pods.yaml and the chart name, and the secrets there are.
locals {
  recovery_days = var.durable ? 30 : 0 # at once, so that a destroyed environment can be made again under its name

  service_accounts = {
    flywheel-data    = { read = ["configs/", "sources/"], write = ["runs/", "cache/", "datasets/", "feedback/", "spend/"] }
    flywheel-train   = { read = ["configs/", "datasets/", "models/"], write = ["runs/", "cache/", "spend/"] }
    flywheel-release = { read = ["configs/", "datasets/"], write = ["runs/", "cache/", "spend/"] }
    flywheel-serving = { read = ["models/"], write = ["feedback/segments/"] }
    flywheel-airflow = { read = ["configs/", "feedback/", "runs/"], write = ["airflow/logs/"] } # manifests and the sensor; data never passes through
    flywheel-mlflow  = { write = ["mlflow/"], delete = ["mlflow/"] }
    external-secrets = { namespace = "external-secrets", secrets = concat(values(module.secrets.arns), module.cache[*].secret_arn) }
  }

  # A database user each, none of them the master. The names of the keys are those the charts read.
  secrets = {
    flywheel-database = {
      description = "PostgreSQL, as the flywheel: stages, serving, curation"
      value       = { password = "<random>", url = "postgresql+psycopg://flywheel:<random>@${module.rds.host}:5432/flywheel?sslmode=require" }
    }
    mlflow-database = {
      description = "PostgreSQL, as MLflow"
      value       = { password = "<random>", url = "postgresql+psycopg://mlflow:<random>@${module.rds.host}:5432/mlflow?sslmode=require" }
    }
    airflow-database = {
      description = "PostgreSQL, as Airflow"
      value       = { password = "<random>", connection = "postgresql+psycopg2://airflow:<random>@${module.rds.host}:5432/airflow?sslmode=require" }
    }
    airflow-fernet = { description = "Key that encrypts Airflow's connections", value = { fernet-key = "<random-base64>" } }
    airflow-jwt    = { description = "Key that signs tokens between Airflow's parts", value = { jwt-secret = "<random>" } }
    signing-key    = { description = "Ed25519 key that signs model versions: key `signing.pem`, put there by a person" }
  }
}
